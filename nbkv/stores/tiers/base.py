"""A tier: one level of a store below the memory that requests run in. Five methods make one.

``Tier`` is what ``nbkv.stores.tiered`` puts entries in and takes them from. A tier hands out what it has and checks no
more than whether it is there; whoever uses an entry checks it (``nbkv.stores.tiers.entry``). Every method may be called
from any thread, and may raise ``OSError``: the tier is then out of reach, which is never a reason to fail a request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nbkv.stores.base import Counts
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.head import EntryFacts
from nbkv.stores.tiers.key import EntryKey


@dataclass(frozen=True)
class TierRow:
    """An entry as a list shows it: its key, tokens, bytes, and how it is kept; ``used`` grows with each use."""

    key: EntryKey
    nbytes: int
    used: float = 0
    uses: int = 0
    priority: int = 0
    pinned: bool = False
    made: float = 0.0
    ttl: float = 0.0


@dataclass(eq=False)
class Tier(ABC):
    """Entries by key, at most ``limit`` bytes of them (0: as many as there is room for).

    ``writes``: ``through`` has everything written that memory is given, ``back`` what memory evicts, and the rest when
    the store is flushed. ``rate``: bytes of K/V per second of the last reads of it (0: nothing was read yet).
    """

    name: str
    limit: int = 0
    writes: str = field(default="through", kw_only=True)
    rate: float = field(default=0.0, kw_only=True)
    counts: Counts = field(default_factory=Counts, kw_only=True)

    @abstractmethod
    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``, whose layers are read when they are asked for; None if there is none.

        Raises ``Damaged`` where what is there is not that entry.
        """

    @abstractmethod
    def put(self, entry: Entry) -> bool:
        """Keep ``entry``, evicting others to stay within ``limit``; return whether it was kept."""

    @abstractmethod
    def drop(self, key: EntryKey) -> bool:
        """Forget the entry of ``key``; return whether there was one."""

    @abstractmethod
    def keys(self) -> Iterator[EntryKey]:
        """Yield the key of every entry."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes of all entries."""

    # with defaults, which a tier that can do better replaces

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return for each of ``marks`` the keys of the entries found by it; those found by none are left out."""
        wanted, found = set(marks), dict[str, list[EntryKey]]()
        for key in self.keys():
            entry = self.get(key)
            for mark in wanted.intersection(() if entry is None else entry.header.marks):
                found.setdefault(mark, []).append(key)
        return found

    def get_many(self, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """Return the entries of ``keys``."""
        return [self.get(key) for key in keys]

    def use(self, keys: Sequence[EntryKey]) -> None:  # noqa: B027  (nothing to note where nothing is evicted)
        """Note that the entries of ``keys`` were used, the last of them most recently."""

    def rank(self, key: EntryKey, rank: float) -> None:  # noqa: B027  (as above)
        """Note a use of the entry of ``key``, worth ``rank`` to the strategy that used it."""

    def keep(self, key: EntryKey, facts: EntryFacts) -> bool:  # noqa: ARG002
        """Have the entry of ``key`` be kept as ``facts`` say; return whether this tier can, and has it."""
        return False

    def rows(self) -> Iterator[TierRow]:
        """Yield a row for each entry."""
        return (TierRow(key, 0) for key in self.keys())

    def collect(self) -> tuple[int, int]:
        """Remove what has expired and what killed processes have left; return how many entries, and their bytes."""
        return 0, 0

    def __len__(self) -> int:
        """Return how many entries there are."""
        return sum(1 for _ in self.keys())

    @property
    def tokens(self) -> int:
        """Return the tokens of all entries."""
        return sum(key.stop - key.start for key in self.keys())

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; entries stay."""
