"""Ledger: questions for one line of notes; every other one is about a line whose declaration is chunks earlier."""

from random import Random

from nbkv.errors import BadOption
from nbkv.tasks.items import Evidence, Item
from nbkv.tasks.questions import ask
from nbkv.tasks.writer import CARRIED, HEADER, LOCAL, NoteLine, check_size, cut, place, write_notes

MIXED: tuple[int, ...] = (1, 2, 3)
"""The distances in chunks that ``distance=0`` mixes."""


def ledger(seed: int = 0, n: int = 64, chunks: int = 8, distance: int = 1, lines: int = 6) -> list[Item]:
    """Return ``n`` questions about ``n`` sets of notes, every other one *carried*, the rest *local*.

    ``distance`` is how many chunks before the line asked for its section was declared (0: one of 1, 2 and 3). ``lines``
    of about 4 tokens make a chunk: 8, 32 and 62 give 8 chunks of about 256, 1,024 and 2,048 tokens together. Sections
    are at least two chunks long. The same arguments give the same items everywhere. Raises ``BadOption`` for sizes that
    no ledger can have.
    """
    check_size(n, chunks, lines)
    if chunks < 2 or lines < 2:  # noqa: PLR2004
        message = f"chunks={chunks}, lines={lines}: a ledger needs at least 2 of each"
        raise BadOption(message)
    if not 0 <= distance < chunks:
        message = f"distance={distance}: from 0 (mixed) to chunks - 1 = {chunks - 1}"
        raise BadOption(message)
    rng = Random(f"ledger {seed}")
    return [_item(rng, chunks, distance, lines, carried=i % 2 == 0) for i in range(n)]


def _item(rng: Random, chunks: int, distance: int, length: int, *, carried: bool) -> Item:
    reach = distance or rng.choice([far for far in MIXED if far < chunks])
    notes, target = carried_notes(rng, chunks, reach, length)
    if not carried:
        target, reach = _local_line(rng, notes, length), 0
    question, answer = ask(rng, notes[target])
    given = notes[target].given
    giving = () if given is None else (place(notes, given, length),)
    evidence = Evidence((place(notes, target, length),), giving)
    kind = "carried" if reach else "local"
    return Item(cut(notes, length), question, [answer], kind, [evidence], reach)


def carried_notes(rng: Random, chunks: int, reach: int, length: int) -> tuple[list[NoteLine], int]:
    """Return notes with a carried line whose section was declared ``reach`` chunks before, and that line's index."""
    chunk = rng.randrange(reach, chunks)
    head = (chunk - reach) * length + rng.randrange(length)
    target = chunk * length + rng.randrange(length)
    forced = {head: HEADER, target: CARRIED}
    forced.update(_some_local(rng, chunks * length, forced))
    return write_notes(rng, chunks * length, forced, quiet=range(head + 1, target), apart=2 * length), target


def _some_local(rng: Random, count: int, taken: dict[int, str]) -> dict[int, str]:
    # at least one local line, so that every set of notes can be asked both kinds of question
    free = [index for index in range(count) if index not in taken]
    return {rng.choice(free): LOCAL} if free else {}


def _local_line(rng: Random, notes: list[NoteLine], length: int) -> int:
    def is_local(index: int) -> bool:
        line = notes[index]
        same_chunk = line.given is not None and line.given // length == index // length
        return line.form == LOCAL or same_chunk

    return rng.choice([index for index in range(len(notes)) if is_local(index)])
