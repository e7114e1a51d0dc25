"""Which entry a full tier evicts next: the one with the lowest score, of those with the lowest priority.

A score is given to an entry when it is kept and each time it is used, so that a tier need only keep its entries sorted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from nbkv.errors import BadOption


@dataclass(frozen=True)
class EntryUse:
    """What a score is made of: ``tick`` counts all uses, ``floor`` is the last score evicted."""

    tick: int
    uses: int
    nbytes: int
    seconds: float = 0.0
    rank: float = 0.0
    floor: float = 0.0


class Policy(ABC):
    """Gives entries their scores."""

    name: ClassVar[str]

    @abstractmethod
    def score(self, use: EntryUse) -> float:
        """Return the score of an entry as it is used; the lowest goes first."""


class LeastRecent(Policy):
    """The least recently used."""

    name = "lru"

    def score(self, use: EntryUse) -> float:
        """Return the tick of the use."""
        return float(use.tick)


class LeastFrequent(Policy):
    """The least often used; of several the least recently used."""

    name = "lfu"

    def score(self, use: EntryUse) -> float:
        """Return the count of uses, then the tick."""
        return use.uses + use.tick / 2**40


class LeastSaved(Policy):
    """The one that saves the fewest seconds of recompute a byte, as often as it was used, since others were evicted.

    Greedy-Dual-Size-Frequency (Cherkasova 1998): the score evicted last is the floor that new scores are added to, so
    that what is not used any more sinks. Where seconds were not measured, recompute is taken to cost by the byte.
    """

    name = "cost"

    def score(self, use: EntryUse) -> float:
        """Return the floor and, added to it, uses times seconds a gigabyte."""
        return use.floor + use.uses * (use.seconds / max(1, use.nbytes) * 2**30 if use.seconds else 1.0)


class LowestRank(Policy):
    """What a strategy ranks lowest: uses times the rank it gave a use; 1 where none has given any.

    Cache-Craft (arXiv 2502.15734) ranks by how often a chunk is reused and how little of it must then be recomputed:
    its rank is the chunk's cost over CFO, the share recomputed. Costs are by the byte here, as eviction is: 1.
    """

    name = "rank"

    def score(self, use: EntryUse) -> float:
        """Return uses times the rank."""
        return use.uses * (use.rank or 1.0) + use.tick / 2**40


_POLICIES = {policy.name: policy for policy in (LeastRecent(), LeastFrequent(), LeastSaved(), LowestRank())}
NAMES = tuple(_POLICIES)


def policy_of(name: str) -> Policy:
    """Return the policy called ``name``; raises ``BadOption``."""
    if name not in _POLICIES:
        message = f"unknown policy {name!r} (accepted: {', '.join(NAMES)})"
        raise BadOption(message)
    return _POLICIES[name]
