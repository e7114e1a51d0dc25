"""Reads entries layer by layer, in threads of its own, while whoever needs them computes with earlier layers.

A layer is read into memory that is there already, and nobody is told that it is there before its digest was checked. On
a GPU it goes from pinned memory over a stream of its own, which the layer that needs it waits for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch

from nbkv.events import Bus, TierRead
from nbkv.kv import KV
from nbkv.stores.reading.device_copy import DeviceCopy
from nbkv.stores.search import FoundSpan
from nbkv.stores.tiers.entry import Pair
from nbkv.stores.tiers.head import Damaged
from nbkv.stores.tiers.key import EntryKey
from nbkv.stores.writer import SharedWork

LayerReads = SharedWork[tuple[EntryKey, int], Pair]

_LARGE = 2**23  # bytes from which on a second thread is worth its start: it reads while the first one checks
_WEIGHT = 0.25  # of a read in the average over a tier's


class LoadLost(Exception):
    """K/V that a request was to be given did not arrive whole: they have to be computed."""


@dataclass(frozen=True, eq=False)
class ArrivingSpan:
    """What was ``found`` in a tier, and the memory that it goes ``into``."""

    found: FoundSpan
    into: KV


@dataclass(eq=False)
class LayerReader:
    """Reads ``spans``, the first layer of all of them before the second; ``bus`` hears of each that has arrived whole.

    Requests that want the same layer of an entry at once read it once (``reads``). ``waited`` are the seconds for which
    the request that needs the layers had to wait for them.
    """

    spans: Sequence[ArrivingSpan]
    reads: LayerReads
    bus: Bus
    waited: float = 0.0
    _ahead: list[int] = field(default_factory=list)
    _whole: int | None = None

    def __post_init__(self) -> None:
        """Begin to read."""
        nbytes = sum(span.into.nbytes for span in self.spans)
        self._pool = ThreadPoolExecutor(1 + (nbytes > _LARGE), thread_name_prefix="nbkv-read")
        self._copies = DeviceCopy()
        self._began = time.perf_counter()
        self._ahead = [0] * len(self.spans)
        self._ended = [self._began] * len(self.spans)
        self._asked: set[tuple[int, int]] = set()
        self._lost: set[int] = set()
        order = [(layer, number) for layer in range(self.n_layers) for number in range(len(self.spans))]
        self._reads: dict[tuple[int, int], Future[None]] = {
            (layer, number): self._pool.submit(self._read, layer, number) for layer, number in order
        }

    @property
    def n_layers(self) -> int:
        """Return how many layers there are."""
        return len(self.spans[0].into.keys) if self.spans else 0

    def need(self, layer: int) -> None:
        """Return once ``layer`` is there, checked, in all spans; raises ``LoadLost`` where it is not to be had."""
        for number in range(len(self.spans)):
            if not self._arrives(layer, number):
                raise LoadLost
        self._copies.need(layer)

    def finish(self) -> int:
        """Wait for all layers, those after a fault excepted; return how many of the first spans are whole."""
        if self._whole is None:
            self._whole = self._count()
            self.cancel()
            for number in range(self._whole):
                self._told(number)
            self._rated()
        return self._whole

    def close(self) -> int:
        """Read no more; return how many of the first spans are whole."""
        if self._whole is None and (self._lost or not all(read.done() for read in self._reads.values())):
            self.cancel()
            self._whole = 0
        return self.finish()

    def cancel(self) -> None:
        """Read no more; afterwards nothing is written to the memory of any span."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._copies.finish()

    def _count(self) -> int:
        for number in range(len(self.spans)):
            if not all(self._arrives(layer, number) for layer in range(self.n_layers)):
                return number
        return len(self.spans)

    def _arrives(self, layer: int, number: int) -> bool:
        read, span = self._reads[layer, number], self.spans[number]
        if number in self._lost:
            return False
        if (layer, number) not in self._asked:
            self._asked.add((layer, number))
            self._ahead[number] += read.done()
        if read.done() and read.exception() is None:
            return True
        began = time.perf_counter()
        arrived = span.found.tier.arrival(read.result, span.found.entry.header.key)
        self.waited += time.perf_counter() - began
        self._lost |= set() if arrived else {number}
        return arrived

    def _rated(self) -> None:
        """Let the tiers of what has come know how many bytes a second that was, on average over their last reads."""
        came = list(zip(self.spans, self._ended, strict=True))[: self._whole]
        for tier in {span.found.tier.tier for span, _ in came}:
            own = [(span.into.nbytes, ended) for span, ended in came if span.found.tier.tier is tier]
            seen = sum(nbytes for nbytes, _ in own) / max(1e-9, max(ended for _, ended in own) - self._began)
            tier.rate += (seen - tier.rate) * (_WEIGHT if tier.rate else 1.0)

    def _told(self, number: int) -> None:
        span = self.spans[number]
        span.found.tier.tier.counts.hits += 1
        if self.bus.heard:
            self.bus.emit(
                TierRead(
                    tokens=span.into.length,
                    nbytes=span.into.nbytes,
                    tier=span.found.tier.name,
                    seconds=self._ended[number] - self._began,
                    waited=self.waited,
                    layers=self.n_layers,
                    ahead=self._ahead[number],
                )
            )

    def _read(self, layer: int, number: int) -> None:
        entry, into = self.spans[number].found.entry, self.spans[number].into
        own = into.keys[layer], into.values[layer]
        with torch.no_grad():
            self.reads.do(
                (entry.header.key, layer), partial(entry.layer, layer, own), partial(self._place, layer, number, own)
            )
        self._ended[number] = max(self._ended[number], time.perf_counter())

    def _place(self, layer: int, number: int, own: Pair, pair: Pair) -> None:
        """Put what was read of ``layer`` where it belongs, unless it was received there."""
        found = self.spans[number].found
        first = found.entry.header.start
        for side, place in zip(pair, own, strict=True):
            if side is place:
                continue
            part = side[:, found.start - first : found.stop - first]
            if part.shape != place.shape:
                message = f"layer {layer} has the shape {list(part.shape)} where {list(place.shape)} was said"
                raise Damaged(message)
            self._copies.copy(layer, part, place)
