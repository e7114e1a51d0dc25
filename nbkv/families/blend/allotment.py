"""How a budget is allotted over what is moved within a history: how many rows, and which come before all others.

A chunk that was encoded alone has seen nothing of what stands before it. What is moved saw all of that but what
changed. It changed at *seams*: in front of a run that does not follow the one before it as it did. Attention falls
about inversely with distance, so ``d`` rows behind a seam where ``m`` tokens went, came or were replaced, about
``log(1 + m / d)`` of what a row took is stale, of ``log(n)`` that the ``n``-th row takes in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbkv import selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST, _MOST = 1 / 9, 1 / 3  # of a budget, for what is moved: however little, however much of what it saw has changed
_STALE, _NEWEST = 0.5, 0.25  # of the rows allowed, what comes first; the strategy selects the others


class MovedRun(NamedTuple):
    """The rows ``[start, stop)``, the first of which stood at position ``base`` of an earlier prompt or answer."""

    start: int
    stop: int
    base: int


@dataclass(frozen=True)
class Allotment:
    """The rows of a prompt that have K/V to recompute: ``alone`` of them encoded alone, and the ``runs`` in order.

    The first ``prefix`` tokens of the prompt are as they were.
    """

    runs: tuple[MovedRun, ...]
    alone: int
    prefix: int

    @cached_property
    def moved(self) -> NDArray[np.int64]:
        """Return the rows ``[M]`` that were moved, in order."""
        return np.concatenate([np.empty(0, np.int64), *(np.arange(run.start, run.stop) for run in self.runs)])

    @property
    def seams(self) -> list[tuple[int, int]]:
        """Return where rows begin before which something changed, and how many tokens went or came there."""
        found, here, there = [], self.prefix, self.prefix
        for start, stop, base in self.runs:
            if changed := start - here + abs(base - there):
                found.append((start, changed))
            here, there = stop, base + stop - start
        return found

    @cached_property
    def staleness(self) -> NDArray[np.float64]:
        """Return for each moved row ``[M]`` how much of what it took is stale, in the units of ``log(row)``."""
        moved = self.moved
        found = np.zeros(len(moved))
        for start, changed in self.seams:
            first = np.searchsorted(moved, start)
            found[first:] += np.log1p(changed / (moved[first:] - start + 1))
        return found

    def rows(self, budget: float) -> int:
        """Return how many rows a ``budget`` allows: a share of those alone, a part of that share of those moved.

        That part is how much of what they saw has changed, between a ninth and a third: the least because few tokens
        may change much, the most because what is moved is nearly all of a prompt. docs/edited-history.md has its price.
        """
        return selection.count(budget, self.alone + self._weight)

    def ahead(self, budget: float) -> list[int]:
        """Return the rows that are run whatever is selected: half of what is allowed of moved ones for the stalest.

        A quarter is for the newest, whatever message they are of: an answer leans on what was said last.
        """
        moved, room = self.moved, selection.count(budget, self._weight)
        newest = len(moved) - min(len(moved), int(_NEWEST * room))
        stalest = np.argsort(-self.staleness[:newest], kind="stable")[: int(_STALE * room)]
        return sorted([*moved[stalest].tolist(), *moved[newest:].tolist()])

    @cached_property
    def _weight(self) -> int:
        """How many rows that were encoded alone the moved ones count as."""
        moved = self.moved
        if not len(moved):
            return 0
        changed = float((self.staleness / np.log(moved + 2)).mean())
        return ceil(len(moved) * min(_MOST, max(_LEAST, changed)))
