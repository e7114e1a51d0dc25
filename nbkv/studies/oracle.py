"""Oracles: selections that know where the answer stands. They say what any selection could reach with so many rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nbkv.errors import UnknownName
from nbkv.families.blend.base import Blend
from nbkv.session.session import Session

if TYPE_CHECKING:
    import torch

    from nbkv.families.blend.partial import PartialPrefill
    from nbkv.strategy import Strategy
    from nbkv.tasks.items import Item, Place

ORACLES = ("line", "chunk", "giving")
SUPPORT = "support"


@dataclass(kw_only=True, repr=False)
class GivenRows(Blend):
    """Recompute the reused ones of the positions ``rows``; not registered, since nobody knows them beforehand."""

    rows: tuple[int, ...] = ()
    label: str = "rows"
    budget: float | None = None

    def __post_init__(self) -> None:
        """Take the rows as they are."""

    @property
    def spec(self) -> str:
        """Return the oracle's name, without its many rows."""
        return f"oracle({self.label})"

    def at_full_budget(self) -> Strategy | None:
        """Return None: an oracle has no budget."""
        return None

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the given rows."""
        import torch  # noqa: PLC0415  (tasks load without torch)

        rows = torch.tensor(sorted(self.rows), dtype=torch.long, device=partial.ids.device)
        return rows[torch.isin(rows, partial.reused)]


def oracle(kind: str) -> Callable[[Any, Item, list[Any]], GivenRows]:
    """Return what makes an oracle for an item, to be given to ``evaluate`` as the strategy.

    ``line``: the lines asked for; ``chunk``: each line's chunk up to the line; ``giving``: from the sentence that gives
    the line its meaning up to the line; ``support``: all of each supporting chunk. Raises ``UnknownName``.
    """
    if kind not in {*ORACLES, SUPPORT}:
        message = f"unknown oracle {kind!r} (known: {', '.join((*ORACLES, SUPPORT))})"
        raise UnknownName(message)

    def make(session: Session, item: Item, prompt: list[Any]) -> GivenRows:
        known = _RowMap(session, item, prompt)
        rows: set[int] = set()
        for evidence in item.oracle:
            for line in evidence.asked:
                if kind == SUPPORT:
                    rows.update(known.chunk(line))
                    continue
                stop = known.stop(line)
                begin = {
                    "line": known.start(line),
                    "chunk": known.head(line),
                    "giving": min([known.start(line), *(known.start(place) for place in evidence.giving)]),
                }
                rows.update(range(begin[kind], stop))
        return GivenRows(rows=tuple(rows), label=kind)

    return make


class _RowMap:
    """From characters of a chunk's text to rows of the prompt."""

    def __init__(self, session: Session, item: Item, prompt: list[Any]) -> None:
        ctx = session._open()  # noqa: SLF001  (tasks know no session, but are used with one)
        built = session._prompt(prompt)  # noqa: SLF001
        self._spans = [(start, stop) for _, start, stop in built.chunks]
        self._ends = [
            list(accumulate(len(piece) for piece in ctx.codec.pieces(built.ids[start:stop])))
            for start, stop in self._spans
        ]
        assert len(self._spans) == len(item.chunks)  # noqa: S101

    def chunk(self, place: Place) -> range:
        """Return the rows of the chunk that ``place`` is in."""
        return range(*self._spans[place.chunk])

    def head(self, place: Place) -> int:
        """Return the first row of the chunk that ``place`` is in."""
        return int(self._spans[place.chunk][0])

    def start(self, place: Place) -> int:
        """Return the row of the token that holds the first character."""
        return self.head(place) + sum(end <= place.start for end in self._ends[place.chunk])

    def stop(self, place: Place) -> int:
        """Return the row behind the token that holds the last character."""
        return self.head(place) + sum(end < place.stop for end in self._ends[place.chunk]) + 1
