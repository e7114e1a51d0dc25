"""The host tier: what does not fit on a GPU any more, in memory of the host, pinned so that it comes back fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.head import Bytes
from nbkv.stores.tiers.indexed.index import EntryIndex
from nbkv.stores.tiers.indexed.indexed_tier import IndexedTier
from nbkv.stores.tiers.key import EntryKey


@dataclass(eq=False)
class HostTier(IndexedTier):
    """Entries in this process's memory, ``pinned`` where a GPU copies from it; written to when a GPU evicts."""

    name: str = "host"
    pinned: bool = field(default=False, kw_only=True)
    writes: str = field(default="back", kw_only=True)

    def __post_init__(self) -> None:
        """Start empty."""
        self._entries: dict[EntryKey, Entry] = {}
        self.index = EntryIndex(None, self.policy, list, self._remove, self.clock)

    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``."""
        return self._entries.get(key)

    def put(self, entry: Entry) -> bool:
        """Keep a copy of ``entry``."""
        if self.limit and entry.nbytes > self.limit:
            return False
        wanted, evicted = self.index.reserve(entry.header, entry.nbytes, self.limit)
        self.counts.evictions += len(evicted)
        if wanted:
            try:
                copies = [[self._copy(entry.pieces(layer))] for layer in range(entry.n_layers)]
            except BaseException:
                self.index.forget(entry.header.key)
                raise
            self._entries[entry.header.key] = replace(entry, read=copies.__getitem__, made=False)
            self.index.ready(entry.header)
        return entry.header.key in self._entries

    def drop(self, key: EntryKey) -> bool:
        """Free the entry of ``key``."""
        self._remove(key)
        return self.index.forget(key)

    def keys(self) -> Iterator[EntryKey]:
        """Yield the key of every entry."""
        return iter(tuple(self._entries))

    def collect(self) -> tuple[int, int]:
        """Free what has expired."""
        gone = self.index.expire()
        self.counts.evictions += len(gone)
        return len(gone), sum(row.nbytes for row in gone)

    def close(self) -> None:
        """Free everything: it was this process's own."""
        self._entries.clear()
        self.index.close()

    def _remove(self, key: EntryKey) -> None:
        self._entries.pop(key, None)

    def _copy(self, pieces: Sequence[Bytes]) -> memoryview:
        copy = torch.empty(sum(len(piece) for piece in pieces), dtype=torch.uint8, pin_memory=self.pinned)
        view, at = memoryview(copy.numpy()), 0  # type: ignore[arg-type]  # arrays are buffers
        for piece in pieces:
            view[at : at + len(piece)] = piece
            at += len(piece)
        return view
