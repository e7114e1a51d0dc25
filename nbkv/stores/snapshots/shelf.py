"""Snapshots in tiers: tensors of all tokens before a position, which are of use behind exactly that position.

A snapshot is an entry like any other (``nbkv.stores.tiers.entry``): content-addressed, sealed, every layer with a
digest, evicted by the tier's policy. Its ``kind`` stands where other entries have their form, so that nobody who looks
for K/V of tokens ever comes across one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from nbkv.events import Bus, Stored, TierRead
from nbkv.kv import Space
from nbkv.stores.snapshots.base import FoundSnapshot, LayerTensors
from nbkv.stores.tiers.entry import Entry, packed_entry
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.tiers.key import STEP, EntryKey, PathKeys
from nbkv.stores.writer import BackgroundWriter

LEAST = STEP  # tokens: a shorter sequence is computed sooner than it is found


@dataclass(eq=False)
class SnapshotShelf:
    """The snapshots of some ``kinds`` in ``tiers``, fastest first; implements ``nbkv.stores.snapshots.base.Snapshots``.

    New ones are written by ``writer``, behind the request's back. ``error`` is the largest that a lossy one had, of
    those written or read.
    """

    kinds: frozenset[str]
    tiers: Sequence[GuardedTier]
    writer: BackgroundWriter
    bus: Bus
    sealer: Sealer
    facts: EntryFacts
    clock: Callable[[], float] = time.time
    error: float = field(default=0.0, init=False)

    def takes(self, kind: str) -> bool:
        """Return whether tiers take snapshots of this ``kind``."""
        return kind in self.kinds

    def put(
        self, space: Space, kind: str, ids: Sequence[int], layers: Sequence[LayerTensors], error: float = 0.0
    ) -> bool:
        """Have a copy of ``layers``, of all of ``ids``, written."""
        if len(ids) < LEAST:
            return False
        copies = [{name: _on_host(tensor) for name, tensor in layer.items()} for layer in layers]
        nbytes = sum(tensor.nbytes for layer in copies for tensor in layer.values())
        self.error = max(self.error, error)
        facts, path = replace(self.facts, error=error), tuple(ids)
        keys = PathKeys(space, path, kind)

        def made() -> Entry:
            stamped = replace(facts, made=self.clock())
            return packed_entry(space, path, 0, copies, keys=keys, kind=kind, sealer=self.sealer, facts=stamped)

        for tier in self.tiers:
            self.writer.add(partial(self._write, tier, keys.entry(0, len(path)), made, nbytes), nbytes)
        return True

    def find(self, space: Space, kind: str, ids: Sequence[int], least: int, most: int) -> FoundSnapshot | None:
        """Return the snapshot of the most first tokens of ``ids``, more than ``least`` and at most ``most`` of them."""
        began = time.perf_counter()
        for tier, key in self._candidates(PathKeys(space, ids, kind), least, most):
            entry = tier.get(key)
            if entry is None or entry.header.ids != tuple(ids[: key.stop]):
                continue
            layers = tier.tensors(entry)
            if layers is None:
                continue
            error = entry.header.facts.error
            tier.use([key])
            self.error = max(self.error, error)
            seconds = time.perf_counter() - began
            self._tell(TierRead(tokens=key.stop, nbytes=entry.nbytes, tier=tier.name, seconds=seconds))
            return FoundSnapshot(key.stop, layers, error, tier.name, partial(tier.refuse, key))
        return None

    def _write(self, tier: GuardedTier, key: EntryKey, made: Callable[[], Entry], nbytes: int) -> None:
        if tier.get(key) is None and tier.put_made(made):
            self._tell(Stored(tokens=key.stop, nbytes=nbytes, tier=tier.name))

    def _candidates(self, keys: PathKeys, least: int, most: int) -> Iterator[tuple[GuardedTier, EntryKey]]:
        """Yield what tiers know under ``keys``, the longest first, and of equal ones those of the fastest tier."""
        marks = [keys.at(position) for position in range(STEP, most + 1, STEP)]
        if not marks:
            return
        found = [(key, rank) for rank, tier in enumerate(self.tiers) for key in _all(tier.find(marks))]
        for key, rank in sorted(set(found), key=lambda each: (-each[0].stop, each[1])):
            if key.start == 0 and least < key.stop <= most and keys.at(key.stop) == key.digest:
                yield self.tiers[rank], key

    def _tell(self, event: Stored | TierRead) -> None:
        if self.bus.heard:
            self.bus.emit(event)


def _all(found: dict[str, list[EntryKey]]) -> set[EntryKey]:
    return {key for keys in found.values() for key in keys}


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
