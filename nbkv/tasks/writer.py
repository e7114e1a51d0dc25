"""The notes that all tasks ask about, line by line in four forms.

A *header* declares a person and a currency ("Pay Anna euro."), opens a section, and holds until the next header. A
*carried* line ("lamp 34.") gives an item and an amount; person and currency are the section's. A *local* line ("desk 20
yen.") names another currency itself, and no person. A *filler* ("It rained at noon.") is about nothing. Notes may begin
in the middle of a section, as an excerpt does: carried lines before the first header cannot be asked for. No item, no
amount and no person occurs twice in one set of notes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.tasks.items import Place
from nbkv.tasks.vocabulary import AMOUNTS, CURRENCIES, ITEMS, NAMES

HEADER: Final = "header"
CARRIED: Final = "carried"
LOCAL: Final = "local"
FILLER: Final = "filler"

MAX_LINES: Final = 500
"""Most lines of one set of notes."""

SHORTEST: Final = 2
"""Fewest lines of a section, its header included."""

_HEADER_SHARES: Final = (0.05, 0.1, 0.2, 0.4)

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
class NoteLine:
    """One line of notes and what it means.

    ``text`` ends with a space. ``item`` is empty for headers and fillers; ``person`` and ``currency`` are empty where
    neither the line nor its section's header says them. ``given`` is the index of the header that a carried line
    depends on.
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
        """Return whether the line can be asked for: it has an item, and the notes say its currency."""
        return bool(self.item and self.currency)


class NoteWriter:
    """Writes ``lines`` one after another, and knows which header holds."""

    def __init__(self, rng: Random) -> None:
        """Shuffle items, amounts and persons with ``rng``; lines use them up in that order."""
        self.rng = rng
        self.lines: list[NoteLine] = []
        self._items = rng.sample(ITEMS, len(ITEMS))
        self._amounts = rng.sample(AMOUNTS, len(AMOUNTS))
        self._heads = rng.sample(NAMES, len(NAMES))
        self._head: NoteLine | None = None
        self._head_at: int | None = None

    def write(self, form: str) -> NoteLine:
        """Append one line and return it.

        ``form`` is ``HEADER`` (uses up a person), ``CARRIED`` or ``LOCAL`` (an item and an amount each) or ``FILLER``.
        Raises ``KeyError`` for another form, ``IndexError`` where nothing is left to use up: see ``may_open`` and
        ``may_list``.
        """
        line = {
            HEADER: self._header,
            CARRIED: self._carried,
            LOCAL: self._local,
            FILLER: self._filler,
        }[form]()
        self.lines.append(line)
        return line

    def may_open(self) -> bool:
        """Return whether a person is left for another header."""
        return bool(self._heads)

    def may_list(self, left: int, forced: Mapping[int, str]) -> bool:
        """Return whether another carried or local line still leaves enough for those to come.

        Of the ``left`` lines to come at most ``len(forced)`` must have an item.
        """
        return min(len(self._items), len(self._amounts)) > min(left, len(forced))

    def _header(self) -> NoteLine:
        person, currency = self._heads.pop(), self._other_currency()
        text = f"Pay {person} {currency}. "
        self._head = NoteLine(text, HEADER, person=person, currency=currency)
        self._head_at = len(self.lines)
        return self._head

    def _carried(self) -> NoteLine:
        item, amount = self._items.pop(), self._amounts.pop()
        text = f"{item} {amount}. "
        if self._head is None:
            return NoteLine(text, CARRIED, item, amount)
        person, currency = self._head.person, self._head.currency
        return NoteLine(text, CARRIED, item, amount, person, currency, self._head_at)

    def _local(self) -> NoteLine:
        item, amount, currency = self._items.pop(), self._amounts.pop(), self._other_currency()
        return NoteLine(f"{item} {amount} {currency}. ", LOCAL, item, amount, currency=currency)

    def _filler(self) -> NoteLine:
        text = self.rng.choice(_FILLERS).format(when=self.rng.choice(_WHEN))
        return NoteLine(text + " ", FILLER)

    def _other_currency(self) -> str:
        current = self._head.currency if self._head else ""
        return self.rng.choice([name for name in CURRENCIES if name != current])


def write_notes(
    rng: Random,
    count: int,
    forced: Mapping[int, str] | None = None,
    quiet: Collection[int] = (),
    apart: int = SHORTEST,
) -> list[NoteLine]:
    """Return ``count`` lines of notes; ``forced`` fixes the form of some by line index, the others are drawn.

    Of those drawn none at an index in ``quiet`` is a header, nor any less than ``apart`` lines from another header.
    """
    writer, forced = NoteWriter(rng), forced or {}
    opened = -apart
    heads = [index for index, form in forced.items() if form == HEADER]
    share = rng.choice(_HEADER_SHARES)
    for index in range(count):
        form = forced.get(index) or _form(rng, 0.5 if index == 0 else share)
        if form == HEADER and index not in heads:
            near = index - opened < apart or any(0 < head - index < apart for head in heads)
            if near or index in quiet or not writer.may_open():
                form = CARRIED
        if form in {CARRIED, LOCAL} and not forced.get(index) and not writer.may_list(count - index, forced):
            form = FILLER
        opened = index if form == HEADER else opened
        writer.write(form)
    return writer.lines


def _form(rng: Random, header_share: float) -> str:
    if rng.random() < header_share:
        return HEADER
    return rng.choices((CARRIED, LOCAL, FILLER), (0.5, 0.3, 0.2))[0]


def cut(lines: list[NoteLine], length: int) -> list[str]:
    """Return the text of ``lines`` in chunks of ``length`` lines each; the last may be shorter."""
    starts = range(0, len(lines), length)
    return ["".join(line.text for line in lines[at : at + length]) for at in starts]


def place(lines: list[NoteLine], index: int, length: int) -> Place:
    """Return the place of line ``index`` in the chunks that ``cut`` makes of ``lines``, without its final space."""
    chunk = index // length
    start = sum(len(line.text) for line in lines[chunk * length : index])
    return Place(chunk, start, start + len(lines[index].text.rstrip()))


def check_size(n: int, chunks: int, lines: int) -> None:
    """Raise ``BadOption`` unless all are at least 1 and ``chunks`` x ``lines`` is at most 500."""
    for name, value in (("n", n), ("chunks", chunks), ("lines", lines)):
        if value < 1:
            message = f"{name}={value}: must be at least 1"
            raise BadOption(message)
    if chunks * lines > MAX_LINES:
        message = f"chunks={chunks} x lines={lines}: at most {MAX_LINES} lines in all"
        raise BadOption(message)
