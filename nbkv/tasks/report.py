"""Report: questions for everything one person bought, in order; that section of the notes crosses chunk borders."""

from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.tasks.items import Evidence, Item
from nbkv.tasks.questions import ask_everything
from nbkv.tasks.writer import CARRIED, HEADER, NoteLine, check_size, cut, place, write_notes

FEWEST: Final = 8
"""Fewest lines of a report: 4 answer tokens each, 32 in all."""

MOST: Final = 32
"""Most lines of a report: 128 answer tokens."""


def report(seed: int = 0, n: int = 64, chunks: int = 8, distance: int = 1, lines: int = 6) -> list[Item]:
    """Return ``n`` questions for all that one person bought; answers of 32 to 128 tokens.

    ``distance`` is how many chunk borders the section crosses (0: any number that ``lines`` allows); sizes are as in
    ``ledger``. The person's section holds carried lines only; the answer gives each with the section's currency.
    Raises ``BadOption`` for sizes that no report can have.
    """
    check_size(n, chunks, lines)
    spans = _spans(chunks, distance, lines)
    if not spans:
        message = (
            f"distance={distance}, chunks={chunks}, lines={lines}: no section of {FEWEST} to {MOST}"
            " lines crosses that many borders; change lines or distance"
        )
        raise BadOption(message)
    rng = Random(f"report {seed}")
    return [_item(rng, chunks * lines, lines, rng.choice(spans)) for _ in range(n)]


def _spans(chunks: int, distance: int, length: int) -> list[range]:
    # all sections (declaration first) of an allowed size that cross the wanted number of borders
    total = chunks * length
    spans = [range(head, head + size + 1) for size in range(FEWEST, MOST + 1) for head in range(total - size)]
    crossed = [(span[-1] // length - span[0] // length, span) for span in spans]
    return [span for borders, span in crossed if borders == distance or (borders and not distance)]


def section(rng: Random, count: int, span: range, length: int) -> list[NoteLine]:
    """Return ``count`` lines of notes in which ``span`` is exactly one person's section, of carried lines only.

    Other sections have at least ``length`` lines.
    """
    forced = {span[0]: HEADER, **dict.fromkeys(span[1:], CARRIED)}
    if span.stop < count:
        forced[span.stop] = HEADER
    return write_notes(rng, count, forced, apart=length)


def _item(rng: Random, count: int, length: int, span: range) -> Item:
    notes = section(rng, count, span, length)
    question, answer = ask_everything(rng, [notes[index] for index in span])
    asked = tuple(place(notes, index, length) for index in span[1:])
    evidence = Evidence(asked, (place(notes, span[0], length),))
    distance = span[-1] // length - span[0] // length
    return Item(cut(notes, length), question, [answer], "report", [evidence], distance)
