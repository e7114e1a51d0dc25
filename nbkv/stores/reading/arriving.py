"""What still arrives from tiers: K/V in memory of their own, and those that a lease's buffer is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nbkv.kv import KV, allocate
from nbkv.show.units import plural
from nbkv.stores.base import Lease
from nbkv.stores.reading.layer_reader import ArrivingSpan, LayerReader
from nbkv.stores.search import FoundSpan
from nbkv.stores.tiers.head import DTYPES

Begin = Callable[[Sequence[ArrivingSpan]], LayerReader]


@dataclass(frozen=True, eq=False)
class ArrivingKV(KV):
    """K/V of which a layer may be read once ``need`` has returned; ``reader`` is still at the others."""

    reader: LayerReader

    def need(self, layer: int) -> None:
        """Wait until ``layer`` is there; raises ``LoadLost``."""
        self.reader.need(layer)

    def __getitem__(self, span: slice) -> KV:
        """Return the tokens of ``span`` as a view, which arrive with the others."""
        return ArrivingKV(tuple(k[:, span] for k in self.keys), tuple(v[:, span] for v in self.values), self.reader)


@dataclass(eq=False)
class LeaseArrival:
    """The first ``limit`` tokens of ``found`` on their way into the buffer of ``lease``; implements ``Arrival``.

    ``ended`` is told which of them came whole.
    """

    lease: Lease
    found: Sequence[FoundSpan]
    limit: int
    devices: Sequence[str]
    ended: Callable[[Sequence[FoundSpan]], None]

    def begin(self, begin: Begin) -> None:
        """Make room in the buffer, promise the lease its tokens, and have ``begin`` read them."""
        lease, start = self.lease, self.found[0].start
        self._before = lease.matched, lease.known, lease.branch
        lease.arrival = self
        within = [span for span in self.found if span.start < self.limit]
        stops = [min(span.stop, self.limit) for span in within]
        like = shapes(within[0], stops[-1] - start, self.devices)
        if not within[0].tier.arrival(lambda: lease.buffer.expect(start, like, self.need)):
            self._cut(0)
            lease.notes.append(f"no memory for KV from {within[0].tier.name}: it was computed again")
            return
        room = lease.buffer.read(start, stops[-1])
        spans = [
            ArrivingSpan(FoundSpan(span.tier, span.entry, span.start, stop), room[span.start - start : stop - start])
            for span, stop in zip(within, stops, strict=True)
        ]
        lease.matched = lease.branch = stops[-1]
        lease.known = self.found[-1].stop
        self.reader = begin(spans)

    def need(self, layer: int) -> None:
        """Wait until ``layer`` is there; raises ``LoadLost``."""
        self.reader.need(layer)

    def settle(self) -> bool:
        """Wait for the rest; return whether all came. If not, the lease goes back to what did, and says so."""
        whole, spans = self.reader.finish(), self.reader.spans
        lost = sum(span.into.length for span in spans[whole:])
        if lost:
            self._cut(whole)
            tier = spans[whole].found.tier.name
            again = plural(lost, "token")
            self.lease.notes.append(f"computed {again} again, whose KV from {tier} did not arrive whole")
        self._let_go()
        self.ended([span.found for span in spans[:whole]])
        return not lost

    def cancel(self) -> None:
        """Read no more; the lease goes back to what memory had."""
        self.reader.cancel()
        self._cut(0)

    def _cut(self, whole: int) -> None:
        lease = self.lease
        lease.matched, lease.known, lease.branch = self._before
        if whole:
            lease.matched = lease.known = lease.branch = self.reader.spans[whole - 1].found.stop
        lease.buffer.truncate(lease.matched)
        self._let_go()

    def _let_go(self) -> None:
        self.lease.buffer.arrived()
        self.lease.arrival = None
        self.lease.waited = self.reader.waited if hasattr(self, "reader") else 0.0


def room_for(span: FoundSpan, devices: Sequence[str]) -> KV:
    """Return memory of its own for what was found, where the layers are."""
    like = shapes(span, span.stop - span.start, devices)
    sides = [
        [allocate(*one.shape, dtype=one.dtype, device=one.device) for one in side] for side in (like.keys, like.values)
    ]
    return KV(tuple(sides[0]), tuple(sides[1]))


def shapes(span: FoundSpan, tokens: int, devices: Sequence[str]) -> KV:
    """Return tensors of the shapes, dtypes and devices of ``tokens`` such tokens, which take no memory."""
    sides: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    layers = span.entry.header.layers
    for layer, device in zip(layers, list(devices) * (len(layers) if len(devices) == 1 else 1), strict=True):
        places = {place.name: place for place in layer}
        for name, side in zip("kv", sides, strict=True):
            heads, _, width = places[name].shape
            dtype = DTYPES[places.get(f"{name}.scale", places[name]).dtype]
            side.append(torch.empty((), dtype=dtype, device=device).expand(heads, tokens, width))
    return KV(tuple(sides[0]), tuple(sides[1]))
