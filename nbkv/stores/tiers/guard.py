"""A tier that cannot hurt a request: what goes wrong there is counted, told once, and otherwise a miss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from nbkv.events import Bus, StoreFault
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.forms import Tensors
from nbkv.stores.tiers.head import Damaged, EntryFacts
from nbkv.stores.tiers.key import EntryKey

T = TypeVar("T")
REST_S = 5.0  # for which a tier that did not answer is left alone
_TIRED = "is out of reach"


class GuardedTier:
    """``tier`` with its faults caught. A damaged entry is dropped; a tier out of reach is left alone for a while.

    ``bus`` hears of each fault; ``now`` is a clock that never goes back.
    """

    def __init__(self, tier: Tier, bus: Bus, now: Callable[[], float] = time.monotonic) -> None:
        """Guard ``tier``."""
        self.tier, self._bus, self._now = tier, bus, now
        self._rests_until = 0.0

    @property
    def name(self) -> str:
        """Return the tier's name."""
        return self.tier.name

    @property
    def out_of_reach(self) -> bool:
        """Return whether it did not answer a moment ago, and is not asked now."""
        return self._now() < self._rests_until

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return the keys found by ``marks``."""
        return self._call(lambda: self.tier.find(marks), {})

    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``, if it is there and whole."""
        return self._call(lambda: self.tier.get(key), None, key)

    def arrival(self, wait: Callable[[], object], key: EntryKey | None = None) -> bool:
        """Return whether ``wait``, for what was asked of the tier before, ends without a fault of it."""

        def waited() -> bool:
            wait()
            return True

        return self._caught(waited, default=False, key=key)

    def tensors(self, entry: Entry) -> list[Tensors] | None:
        """Return the tensors of all layers of ``entry``; None if any cannot be had, or is not what it should be."""
        found = self._call(lambda: [entry.tensors(layer) for layer in range(entry.n_layers)], None, entry.header.key)
        self.tier.counts.hits += found is not None
        return found

    def refuse(self, key: EntryKey, why: str) -> None:
        """Drop the entry of ``key``, which was read whole and turned out to be of no use, and say ``why``."""
        self._fault(f"an entry was refused and dropped: {why}")
        self._call(lambda: self.tier.drop(key), default=False)

    def put(self, entry: Entry) -> bool:
        """Keep ``entry``; return whether it is kept."""
        return self.put_made(lambda: entry)

    def put_made(self, make: Callable[[], Entry]) -> bool:
        """Keep the entry that ``make`` makes; return whether it is kept."""
        return self._call(lambda: self.tier.put(make()), default=False)

    def use(self, keys: Sequence[EntryKey]) -> None:
        """Note the use of ``keys``."""
        self._call(lambda: self.tier.use(keys), None)

    def keep(self, key: EntryKey, facts: EntryFacts) -> bool:
        """Have the entry of ``key`` be kept as ``facts`` say; return whether it is."""
        return self._call(lambda: self.tier.keep(key, facts), default=False)

    def rank(self, key: EntryKey, rank: float) -> None:
        """Note a use of the entry of ``key``, worth ``rank``."""
        self._call(lambda: self.tier.rank(key, rank), None)

    def missed(self) -> None:
        """Count a lookup that found nothing here."""
        self.tier.counts.misses += 1

    def figures(self) -> dict[str, int | float | str]:
        """Return the tier's figures; what it cannot say now is 0."""
        counts = self.tier.counts
        entries, nbytes, tokens = self._call(lambda: (len(self.tier), self.tier.nbytes, self.tier.tokens), (0, 0, 0))
        return {
            "tier": self.name,
            "entries": entries,
            "tokens": tokens,
            "bytes": nbytes,
            "limit": self.tier.limit,
            "hits": counts.hits,
            "misses": counts.misses,
            "evictions": counts.evictions,
            "faults": counts.faults,
            "checkpoints": 0,
            "state_bytes": 0,
        }

    def close(self) -> None:
        """Close the tier."""
        self._call(self.tier.close, None)

    def _call(self, call: Callable[[], T], default: T, key: EntryKey | None = None) -> T:
        return default if self.out_of_reach else self._caught(call, default, key)

    def _caught(self, call: Callable[[], T], default: T, key: EntryKey | None = None) -> T:
        try:
            return call()
        except Damaged as error:
            self._fault(f"an entry is damaged and was dropped: {error}")
            if key is not None:
                self._call(lambda: self.tier.drop(key), default=False)
        except OSError as error:
            self._rests_until = self._now() + REST_S
            self._fault(f"{_TIRED}: {type(error).__name__}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self._fault("there is no memory for an entry")
        return default

    def _fault(self, why: str) -> None:
        self.tier.counts.faults += 1
        if self._bus.heard:
            self._bus.emit(StoreFault(tier=self.name, why=why))


def out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` says that memory has run out, as Python, torch on a GPU or torch on a CPU say it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
