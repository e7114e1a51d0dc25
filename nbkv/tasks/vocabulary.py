"""The vocabulary of the bundled readers: closed, word-level, in a frozen order.

The order fixes the token ids of every shipped tokenizer and what every seeded generator draws, so words are only ever
appended, and only together with a newly trained reader.
"""

from typing import Final

ITEMS: Final = tuple(
    """
    lamp chair table desk sofa bench stool shelf cabinet drawer mirror carpet rug curtain pillow
    blanket mattress bed crib cradle clock watch bracelet necklace ring brooch crown medal coin
    purse wallet bag basket bucket barrel box crate trunk suitcase backpack sack tent rope chain
    ladder hammer saw drill chisel axe shovel rake hoe spade wrench pliers screw nail bolt hinge
    lock anvil forge bellows kettle teapot cup mug saucer plate bowl spoon fork knife ladle pan
    pot wok grill oven stove fridge toaster blender mixer whisk sieve jar bottle flask jug
    pitcher vase candle lantern torch lighter broom mop sponge towel soap brush comb razor
    scissors needle thread button zipper ribbon lace cloth linen silk wool cotton velvet leather
    coat jacket vest shirt blouse sweater scarf shawl glove mitten hat cap bonnet helmet belt
    tie skirt dress apron sock shoe boot sandal slipper umbrella cane crutch violin viola cello
    guitar banjo harp lute flute oboe clarinet trumpet trombone tuba horn drum cymbal bell gong
    piano organ accordion harmonica whistle book novel atlas dictionary diary journal notebook
    pencil pen marker crayon chalk eraser ruler compass globe map poster painting statue frame
    easel canvas paint camera tripod lens telescope microscope radio speaker phone tablet laptop
    printer keyboard monitor cable plug socket battery bulb switch fuse wire pipe pump valve tap
    sink tub shower bicycle tricycle scooter wagon cart sled kayak canoe raft boat anchor oar
    sail net hook bait reel saddle bridle stirrup whip kite yoyo doll puppet puzzle marble
    domino dice bat racket paddle skate ski surfboard frisbee dart arrow bow quiver shield sword
    dagger spear apple pear peach plum cherry grape lemon lime orange banana mango melon fig
    olive onion garlic leek carrot turnip beet radish cabbage lettuce spinach celery cucumber
    pumpkin squash pepper tomato potato bean pea lentil corn rice wheat barley oats rye flour
    sugar honey syrup jam butter cheese cream yogurt milk egg bacon ham sausage steak chicken
    turkey duck goose salmon trout tuna shrimp crab lobster oyster bread roll bagel muffin
    biscuit cookie cake pie tart pudding candy chocolate vanilla cinnamon ginger nutmeg mustard
    vinegar salt tea coffee cocoa juice cider wine beer rose tulip lily daisy orchid violet fern
    cactus ivy moss pine oak maple cedar willow birch hen rooster goat sheep cow horse donkey
    mule pony rabbit parrot canary goldfish turtle hamster kitten puppy tarp hose brick tile
    plank beam slate gravel sand cement plaster glue tape stamp envelope postcard parcel ticket
    badge banner flag trophy whiteboard magnet gear wheel tire pedal brake engine motor
    propeller rudder mast hammock swing
    """.split()
)
"""Things that are bought: the keys that questions look up."""

SHE: Final = tuple(
    """
    Anna Alice Bella Clara Carla Diana Elena Emma Eva Fiona Flora Gina Greta Hanna Helena Irene
    Iris Jane Julia Karen Laura Lena Lucy Maria Martha Mia Mona Nadia Nina Nora Olga Paula Petra
    Rita Rosa Ruth Sara Sofia Tara Vera
    """.split()
)
"""Names referred to as ``her``."""

HE: Final = tuple(
    """
    Adam Alan Anton Arthur Ben Boris Bruno Carl Daniel David Dennis Edgar Emil Eric Felix Frank
    Fred George Gustav Hans Henry Hugo Ivan Jack James John Karl Leo Louis Mark Martin Max Oscar
    Otto Paul Peter Robert Simon Thomas Victor
    """.split()
)
"""Names referred to as ``him``."""

CURRENCIES: Final = tuple(
    """
    euro dollar pound yen peso krona franc rupee won dinar rand lira
    """.split()
)
"""Currencies an amount may be in."""

GENERAL: Final = tuple(
    """
    The A An It In On At By For From To Of Off Out Up Down Over Under With Without And Or But
    Not No Yes If Then When While Who Whose What Where Which Why How Is Are Was Were Be Do Does
    Did Has Have Had Can Could Will Would May Must There Here This That These Those They We You
    He She Her His Him Their Our Your My Me Us Them Nobody Somebody Everybody Nothing Something
    Everything Answer Question Noted Note Notes List Pay Say Please Now Later Today Tomorrow
    Yesterday Only Also Both All Some Many Few More Most Less None One Two Three First Second
    Third Last Next Before After cost costs price paid pay pays bought buy buys sold sell
    everything anything known know knows about amount amounts much many line lines page note
    notes same sum total number numbers value values code codes key keys word words name names
    set equals get gives give given take takes taken hold holds held keep keeps kept put find
    finds found look looks ask asks asked say says said tell tells told think thinks agree
    agrees agreed vote votes plan plans planner reader judge step steps part parts task tasks
    result results right wrong true false best worst better good bad old new big small long
    short high low early late left near far open closed empty full hidden secret special magic
    public common first second third last next other another each every some any none all both
    more most less few one two three four five six seven eight nine ten a an the and or but not
    no yes if then than when while who whose what where which why how is are was were be been do
    does did has have had can could will would may must there here this that these those they we
    you he she her his him their our your my me us them it its in on at by for from to of off
    out up down over under with without into through across along around between behind before
    after during until since again still never always often soon just only also too very quite
    nobody somebody everybody nothing something everywhere quiet calm cold warm dry wet bright
    dark grey green blue red white black clear rained rain snowed snow wind blew sun shone cloud
    clouds sky fog lay light lights morning noon evening night day days week month year hour
    hours time times road street square market town village city river lake sea hill field
    forest garden house home room door window wall floor roof yard gate tower station train bus
    port island valley north south east west people children men women man woman child friend
    friends letter letters story walked walk went go came come stood stand sat sit slept sleep
    worked work played play sang sing rang waited wait opened stayed stay began begin ended end
    turned turn stopped moved slowly quickly softly birds dogs cats leaves trees grass water air
    fire smoke dust bells terse brief answer answers question questions according list please
    thanks thank hello
    """.split()
)
"""Words of questions and filler lines, and a reserve for tasks to come."""

AMOUNTS: Final = tuple(range(10, 400))
"""Amounts: two or three digits, one token each, as many as one set of notes can need."""

NAMES: Final = SHE + HE
"""All names."""

PUNCTUATION: Final = tuple("\n.,:;?!()\"'-")
"""Marks that are tokens of their own; a newline is kept for readers to come, in text it is whitespace."""

SPECIAL: Final = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
"""Unknown word, start, end of an answer, padding, and the mask of diffusion readers."""


def tokens() -> tuple[str, ...]:
    """Return all tokens in the order of their ids."""
    digits = tuple(str(number) for number in range(AMOUNTS[-1] + 1))
    return SPECIAL + PUNCTUATION + digits + CURRENCIES + NAMES + ITEMS + GENERAL
