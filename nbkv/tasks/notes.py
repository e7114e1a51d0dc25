"""The writer of the notes that all tasks ask about.

A section opens with a declaration ("Anna pays in euro.") that holds until the next one. A *carried*
line ("The lamp cost her 34.") says neither who nor which currency; a *local* line ("The desk cost
Ben 20 yen.") says both. Filler lines declare nothing. Notes may open in the middle of a section, as
an excerpt does.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.tasks.items import Place
from nbkv.tasks.vocabulary import AMOUNTS, CURRENCIES, HE, ITEMS, SHE

HEADER: Final = "header"
CARRIED: Final = "carried"
LOCAL: Final = "local"
FILLER: Final = "filler"

MAX_LINES: Final = 380
"""Most lines of one set of notes: no item and no amount comes twice."""

_HEADER_NAMES: Final = 30
_HEADER_SHARES: Final = (0.04, 0.08, 0.12, 0.2)

_WHEN: Final = ("in the morning", "in the evening", "at noon", "at night", "all day", "for an hour")
_FILLERS: Final = (
    "It rained {when}.",
    "It was cold {when}.",
    "The wind blew {when}.",
    "The street was quiet {when}.",
    "The road was wet {when}.",
    "The children sang {when}.",
    "Nobody was in the garden {when}.",
    "The market was open {when}.",
    "The river was high {when}.",
    "The birds sat near the gate {when}.",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of notes and what it means.

    `text` ends with a newline. `item` is empty for headers and fillers, `person` and `currency` are
    empty where nothing before the line says them. `given` is the index of the declaration a carried
    line depends on.
    """

    text: str
    form: str
    item: str = ""
    amount: int = 0
    person: str = ""
    currency: str = ""
    given: int | None = None

    @property
    def answerable(self) -> bool:
        """Whether the notes say everything about this line's item."""
        return bool(self.item and self.person)


class Writer:
    """Writes lines one after another and remembers which declaration holds."""

    def __init__(self, rng: Random) -> None:
        """Draw all names and items of these notes from `rng`."""
        self.rng = rng
        self.lines: list[Line] = []
        self._items = rng.sample(ITEMS, len(ITEMS))
        self._amounts = rng.sample(AMOUNTS, len(AMOUNTS))
        she, he = rng.sample(SHE, len(SHE)), rng.sample(HE, len(HE))
        heads = she[:_HEADER_NAMES] + he[:_HEADER_NAMES]
        self._heads = rng.sample(heads, len(heads))
        # Who pays in a local line never opens a section, and is never the one "her" or "him" means.
        self._payers = {"her": he[_HEADER_NAMES:], "him": she[_HEADER_NAMES:]}
        self._pronoun = rng.choice(("her", "him"))
        self._head: Line | None = None
        self._head_at: int | None = None

    def write(self, form: str) -> Line:
        """Append one line of the form and return it."""
        line = {
            HEADER: self._header,
            CARRIED: self._carried,
            LOCAL: self._local,
            FILLER: self._filler,
        }[form]()
        self.lines.append(line)
        return line

    def may_open(self) -> bool:
        """Whether a name is left for another section."""
        return bool(self._heads)

    def _header(self) -> Line:
        person, currency = self._heads.pop(), self._other_currency()
        self._pronoun = "her" if person in SHE else "him"
        text = f"{person} pays in {currency}.\n"
        self._head = Line(text, HEADER, person=person, currency=currency)
        self._head_at = len(self.lines)
        return self._head

    def _carried(self) -> Line:
        item, amount = self._items.pop(), self._amounts.pop()
        text = f"The {item} cost {self._pronoun} {amount}.\n"
        if self._head is None:
            return Line(text, CARRIED, item, amount)
        person, currency = self._head.person, self._head.currency
        return Line(text, CARRIED, item, amount, person, currency, self._head_at)

    def _local(self) -> Line:
        item, amount = self._items.pop(), self._amounts.pop()
        person, currency = self.rng.choice(self._payers[self._pronoun]), self._other_currency()
        text = f"The {item} cost {person} {amount} {currency}.\n"
        return Line(text, LOCAL, item, amount, person, currency)

    def _filler(self) -> Line:
        text = self.rng.choice(_FILLERS).format(when=self.rng.choice(_WHEN))
        return Line(text + "\n", FILLER)

    def _other_currency(self) -> str:
        current = self._head.currency if self._head else ""
        return self.rng.choice([name for name in CURRENCIES if name != current])


def write_notes(
    rng: Random,
    count: int,
    forced: Mapping[int, str] | None = None,
    quiet: Collection[int] = (),
) -> list[Line]:
    """Write `count` lines; `forced` fixes forms by line index, no section opens at `quiet` ones."""
    writer, forced = Writer(rng), forced or {}
    share = rng.choice(_HEADER_SHARES)
    for index in range(count):
        form = forced.get(index) or _form(rng, 0.5 if index == 0 else share)
        if form == HEADER and (index in quiet or not writer.may_open()):
            form = CARRIED
        writer.write(form)
    return writer.lines


def _form(rng: Random, header_share: float) -> str:
    if rng.random() < header_share:
        return HEADER
    return rng.choices((CARRIED, LOCAL, FILLER), (0.55, 0.3, 0.15))[0]


def cut(lines: list[Line], length: int) -> list[str]:
    """Chunks of `length` lines each."""
    starts = range(0, len(lines), length)
    return ["".join(line.text for line in lines[at : at + length]) for at in starts]


def place(lines: list[Line], index: int, length: int) -> Place:
    """Where line `index` stands once the notes are cut into chunks of `length` lines."""
    chunk = index // length
    start = sum(len(line.text) for line in lines[chunk * length : index])
    return Place(chunk, start, start + len(lines[index].text.rstrip("\n")))


def check_size(n: int, chunks: int, lines: int) -> None:
    """Refuse sizes that no notes can have."""
    for name, value in (("n", n), ("chunks", chunks), ("lines", lines)):
        if value < 1:
            message = f"{name}={value}: must be at least 1"
            raise BadOption(message)
    if chunks * lines > MAX_LINES:
        message = f"chunks={chunks} x lines={lines}: at most {MAX_LINES} lines in all"
        raise BadOption(message)
