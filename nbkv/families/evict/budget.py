"""The budget of an eviction strategy: how many cache slots a layer may hold, as a number or a share of the sequence."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from nbkv.models.caches.evicting import UNBOUNDED, EvictingCache

_STEPS = 32  # a share's budget grows in steps of this part of what it is after the prompt, so that buffers seldom move


@dataclass(frozen=True)
class SlotBudget:
    """``keep`` tokens (an int), or the share ``keep`` (a float) of the sequence so far, prompt and answer together.

    A share is rounded up. Behind the ``prompt`` it was begun with, it grows in steps, and is never above the share.
    """

    keep: float
    prompt: int

    def slots(self, seen: int) -> int:
        """Return how many slots a layer may hold of a sequence of ``seen`` tokens."""
        if isinstance(self.keep, int):
            return self.keep
        if self.keep == 1.0:
            return UNBOUNDED
        most, begun = self._share(seen), self._share(self.prompt)
        step = max(1, begun // _STEPS)
        return most if most <= begun else begun + (most - begun) // step * step

    def _share(self, tokens: int) -> int:
        return max(1, ceil(self.keep * tokens - 1e-9))


@dataclass(frozen=True, eq=False)
class BudgetedCache:
    """The cache of one request, and how much of it may stay."""

    cache: EvictingCache
    budget: SlotBudget
