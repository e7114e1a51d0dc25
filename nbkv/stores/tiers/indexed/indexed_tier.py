"""What tiers with an index have in common: who only wants to know about entries asks the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nbkv.stores.tiers.base import Tier, TierRow
from nbkv.stores.tiers.head import EntryFacts
from nbkv.stores.tiers.indexed.index import EntryIndex
from nbkv.stores.tiers.indexed.policies import Policy, policy_of
from nbkv.stores.tiers.key import EntryKey


@dataclass(eq=False)
class IndexedTier(Tier):
    """A tier with an ``index``, which it makes when it is opened; what ``policy`` scores lowest is evicted first."""

    policy: Policy = field(default_factory=lambda: policy_of("lru"), kw_only=True)
    clock: Callable[[], float] = field(default=time.time, kw_only=True)
    index: EntryIndex = field(init=False)

    def keys(self) -> Iterator[EntryKey]:
        """Yield the keys in the index."""
        return (row.key for row in self.index.rows())

    @property
    def nbytes(self) -> int:
        """Return the bytes of all entries in the index, with those that are being written."""
        return self.index.figure("bytes")

    @property
    def tokens(self) -> int:
        """Return the tokens of all entries in the index."""
        return self.index.figure("tokens")

    def __len__(self) -> int:
        """Return how many entries there are in the index."""
        return self.index.figure("entries")

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return the keys of entries found by ``marks``, as the index has them."""
        return self.index.find(marks)

    def use(self, keys: Sequence[EntryKey]) -> None:
        """Note the use of ``keys``, the last one as the most recent."""
        self.index.use(keys)

    def rank(self, key: EntryKey, rank: float) -> None:
        """Note a use, and what it was worth."""
        self.index.rank(key, rank)

    def keep(self, key: EntryKey, facts: EntryFacts) -> bool:
        """Have an entry be kept as ``facts`` say."""
        return self.index.keep(key, facts)

    def rows(self) -> Iterator[TierRow]:
        """Yield a row for each entry."""
        return self.index.rows()
