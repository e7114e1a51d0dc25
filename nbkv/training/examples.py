"""What a reader is trained on: token ids, and which of them it has to predict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from nbkv.tasks.questions import NOTED, ask, ask_everything
from nbkv.tasks.report import FEWEST, MOST
from nbkv.tasks.writer import CARRIED, HEADER, SHORTEST, NoteLine, write_notes

Encode = Callable[[str], list[int]]

BOS: Final = 1
EOS: Final = 2
SYSTEM: Final = "Answer from the notes. "
_SMALLEST: Final = 3
_MOST_SECTIONS: Final = 3


@dataclass(slots=True)
class TrainingExample:
    """`ids [T]`; `kinds [T]`: which kind of answer each token belongs to, empty if to none."""

    ids: list[int] = field(default_factory=lambda: [BOS])
    kinds: list[str] = field(default_factory=lambda: [""])

    def add(self, ids: list[int], kind: str = "") -> None:
        """Append tokens."""
        self.ids += ids
        self.kinds += [kind] * len(ids)


def write_example(rng: Random, encode: Encode, lines: int, length: int) -> TrainingExample:
    """Write notes of `lines` lines and as many questions as `length` tokens hold.

    The notes come at once or in up to four portions with questions after each, as in a dialogue.
    Every question is followed by its answer and the end token.
    """
    notes, sections = layout(rng, lines)
    example = TrainingExample()
    if rng.random() < 0.1:  # noqa: PLR2004
        example.add(encode(SYSTEM))
    portions = 1 if rng.random() < 0.6 else rng.randint(2, 4)  # noqa: PLR2004
    borders = sorted(rng.sample(range(1, lines), min(portions, lines) - 1)) if lines > 1 else []
    room = length - sum(len(encode(line.text)) for line in notes) - len(example.ids)
    asked: set[int] = set()
    for start, stop in zip([0, *borders], [*borders, lines], strict=True):
        example.add(encode(_portion(notes[start:stop])))
        share = room if stop == lines else rng.randint(0, room // 2)
        used = len(example.ids)
        for section in rng.sample(sections, len(sections)):
            told = ask_everything(rng, [notes[i] for i in section])
            left = used + share - len(example.ids)
            if section.stop <= stop and rng.random() < 0.9 and _exchange(example, encode, *told, "report", left):  # noqa: PLR2004
                sections.remove(section)
        _questions(rng, encode, example, notes[:stop], asked=asked, limit=used + share)
        room -= len(example.ids) - used
    return example


def _portion(lines: list[NoteLine]) -> str:
    return "".join(line.text for line in lines)


def layout(rng: Random, lines: int) -> tuple[list[NoteLine], list[range]]:
    """Write notes with sections to report (given as well), free notes, or notes with one section of any length."""
    apart = rng.randint(max(SHORTEST, lines // 8), max(SHORTEST, lines // 3))
    if lines >= _SMALLEST and rng.random() < 0.7:  # noqa: PLR2004
        parts = rng.randint(1, max(1, min(_MOST_SECTIONS, lines // _SMALLEST)))
        spans = [_span(rng, part * (lines // parts), lines // parts) for part in range(parts)]
        forced = {span.stop: HEADER for span in spans}
        for span in spans:
            forced.update({span[0]: HEADER, **dict.fromkeys(span[1:], CARRIED)})
        return write_notes(rng, lines, forced, apart=apart), spans
    if lines < _SMALLEST or rng.random() < 0.5:  # noqa: PLR2004
        return write_notes(rng, lines, apart=apart), []
    head = rng.randrange(lines - 1)
    return write_notes(rng, lines, {head: HEADER}, range(head + 1, rng.randint(head + 1, lines)), apart), []


def _span(rng: Random, start: int, size: int) -> range:
    # Short sections too, so that reports are learned along with the first questions.
    fewest = min(FEWEST, max(1, size // 3))
    head = rng.randrange(size - fewest)
    return range(start + head, start + head + 1 + rng.randint(fewest, min(MOST, size - 1 - head)))


def _questions(
    rng: Random,
    encode: Encode,
    example: TrainingExample,
    known: list[NoteLine],
    *,
    asked: set[int],
    limit: int,
) -> None:
    pool = [i for i in range(len(known)) if known[i].answerable and i not in asked]
    rng.shuffle(pool)
    if rng.random() < 0.6:  # noqa: PLR2004  (what was said long before is hard, and seldom asked by chance)
        pool.sort(key=lambda i: -_reach(known[i], i) * rng.random())
    if not example.kinds[-1] and (not pool or rng.random() < 0.05):  # noqa: PLR2004
        _exchange(example, encode, "", NOTED, "noted", limit - len(example.ids))
    for index in pool:
        line = known[index]
        kind = "local" if line.given is None else "carried"
        room = limit - len(example.ids)
        if not _exchange(example, encode, *ask(rng, line), kind, room):
            return
        asked.add(index)


def _reach(line: NoteLine, index: int) -> int:
    return 1 if line.given is None else index - line.given


def _exchange(  # noqa: PLR0917
    example: TrainingExample, encode: Encode, question: str, answer: str, kind: str, room: int
) -> bool:
    asked = encode(question)
    said = [*encode(answer), EOS]
    if len(asked) + len(said) > room:
        return False
    example.add(asked)
    example.add(said, kind)
    return True
