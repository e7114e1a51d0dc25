"""The tiered store: memory that requests run in, and below it tiers where KV outlives the process.

What a request leaves in memory is written to the tiers behind its back, or when memory evicts it and when the store is
flushed, as each tier says (``writes``). What memory lacks of a prompt is looked for in the tiers, fastest first, and
loaded into the very buffer that the request appends to. Whatever goes wrong in a tier is a miss.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from nbkv.events import Bus
from nbkv.kv import KV, Space
from nbkv.show.units import plural
from nbkv.stores.base import Buffer, Keeping, Lease, ScratchSpaces, TierLoad, in_short
from nbkv.stores.memory import MemoryStore
from nbkv.stores.reading.arriving import ArrivingKV, LeaseArrival, room_for
from nbkv.stores.reading.layer_reader import ArrivingSpan, LayerReader, LayerReads
from nbkv.stores.search import FoundSpan, PathSearch
from nbkv.stores.snapshots.resting_states import STATES, pack, unpack
from nbkv.stores.snapshots.shelf import SnapshotShelf
from nbkv.stores.state_checkpoints import StateCheckpoint
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.forms import AsItIs, StorageForm
from nbkv.stores.tiers.guard import GuardedTier, out_of_memory
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.writer import BackgroundWriter, SharedWork
from nbkv.stores.writing.path_writer import PathWriter

if TYPE_CHECKING:
    import pandas as pd

SHAREABLE = ("exact", "canonical")  # what a strategy made under approximations is its own session's


@dataclass(eq=False, repr=False)
class TieredStore:
    """``front`` is the memory, ``below`` are the tiers, fastest first; implements ``nbkv.stores.base.Store``.

    Layers lie on ``devices``, one for each or one for all. ``form`` is how tiers hold K/V: of several stores only those
    of one form find each other's. ``facts`` are those of new entries, which are sealed by ``sealer``.
    """

    front: MemoryStore
    below: Sequence[Tier]
    bus: Bus = field(default_factory=Bus)
    devices: Sequence[str] = ("cpu",)
    form: StorageForm = field(default_factory=AsItIs)
    sealer: Sealer = field(default_factory=Sealer)
    facts: EntryFacts = field(default_factory=EntryFacts)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        """Have what memory evicts be written, and what waits when the process ends."""
        self._below = [GuardedTier(tier, self.bus) for tier in self.below]
        self._writer = BackgroundWriter()
        self._reads: LayerReads = SharedWork()
        self._error = 0.0  # the largest that the form had made of what was read
        self._stateful: set[str] = set()  # models whose KV is of no use without states that only memory holds
        kinds = frozenset({self.form.name or STATES})
        how = self.bus, self.form, self.sealer, self.facts, self.clock
        self._paths = PathWriter(self.front, self._below, self._search, self._writer, *how)
        given = self._writer, self.bus, self.sealer, self.facts, self.clock
        self.snapshots = SnapshotShelf(kinds, self._below, *given)
        self.front.on_evict = self._evicted
        weakref.finalize(self, self._writer.flush)

    @property
    def name(self) -> str:
        """Return the name of the memory: what requests run in."""
        return self.front.name

    @property
    def limit(self) -> int:
        """Return the most bytes of the memory."""
        return self.front.limit

    @property
    def scratch_spaces(self) -> ScratchSpaces:
        """Return those of the memory."""
        return self.front.scratch_spaces

    def take(
        self,
        space: Space,
        ids: Sequence[int],
        limit: int,
        new: Callable[[], Buffer],
        *,
        states_from: int | None = None,
        branch_at: Callable[[int], Buffer] | None = None,
        layerwise: bool = False,
    ) -> Lease:
        """Lease a buffer with the longest prefix that memory and tiers know; of recurrent models, one with states."""
        lease = self.front.take(space, ids, limit, new, states_from=states_from, branch_at=branch_at)
        try:
            if states_from is None:
                self._load_into(lease, ids, limit)
            else:
                self._load_states(lease, ids, max(lease.matched, states_from - 1), limit)
            if lease.arrival is not None and not layerwise:
                lease.arrival.settle()
        except BaseException:
            self.discard(lease)
            raise
        return lease

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """End ``lease``, keep what its buffer holds, and have it written to the tiers."""
        if lease.arrival is not None and not lease.arrival.settle():
            self.front.discard(lease)  # it is shorter than what the caller would give
            return
        self._keep_states(lease, ids, checkpoints)
        through = bool(self._paths.through) and self._shared(lease.space)
        path = lease.space, tuple(ids[: len(lease.space.path(ids))])
        if through:
            self._paths.expect(path)
        self.front.give(lease, ids, checkpoints)
        if through:
            self._paths.given(path, lease.seconds)

    def put(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> int:
        """Keep a copy of ``kv``, the K/V of ``ids[start:]``, in memory, and have it written to the tiers."""
        new = self.front.put(space, ids, start, kv)
        if self._shared(space):
            self._paths.write_copy(space, ids, start, kv)
            self._writer.throttle()
        return new

    def discard(self, lease: Lease) -> None:
        """End ``lease``; what the request wrote is dropped, what was known before stays."""
        if lease.arrival is not None:
            lease.arrival.cancel()
        self.front.discard(lease)

    @contextmanager
    def reading(
        self, space: Space, ids: Sequence[int], start: int = 0, *, layerwise: bool = False
    ) -> Iterator[list[tuple[int, KV]]]:
        """Give the known K/V of ``ids[start:]``: views of memory, then what the tiers have; memory keeps that too."""
        reader = self._read(self._found(space, ids, max(self.front.holds(space, ids), start), len(ids)))
        spans = reader.spans if layerwise else reader.spans[: reader.finish()]
        try:
            with self.front.reading(space, ids, start) as views:
                reach = max(self.front.holds(space, ids), start)
                kvs = ((span.found.start, ArrivingKV(span.into.keys, span.into.values, reader)) for span in spans)
                yield [*views, *((max(at, reach), kv[max(0, reach - at) :]) for at, kv in kvs)]
        finally:
            whole = reader.spans[: reader.close()]
            self._used([span.found for span in whole])
        for span in whole:
            self.front.adopt(space, ids[: span.found.stop], span.found.start, span.into)

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` memory and tiers know; damage is found when they are read."""
        known, at = self.front.holds(space, ids), 0
        for span in self._search(space, ids, known, len(ids), self._below):
            at = span.stop
        return max(known, at)

    def loads(self, space: Space, ids: Sequence[int], start: int = 0) -> list[TierLoad]:
        """Return what reading ``ids[start:]`` would bring from tiers."""
        known = max(self.front.holds(space, ids), start)
        found = self._search(space, ids, known, len(ids), self._below)
        return [TierLoad(span.tier.name, span.stop - span.start, span.tier.tier.rate) for span in found]

    def keep(self, space: Space, ids: Sequence[int], how: Keeping) -> int:
        """Have every entry along ``ids`` be kept as ``how`` says, in all tiers, once what waits is written."""
        self.flush()
        most, facts = self.front.keep(space, ids, how), replace(self.facts, **asdict(how))
        for tier in self._below:
            for span in self._search(space, ids, 0, len(ids), [tier]):
                if tier.keep(span.entry.header.key, facts):
                    most = max(most, span.stop)
        return most

    def rank(self, space: Space, ids: Sequence[int], rank: float) -> None:
        """Have tiers know a use of every entry along ``ids``, and what a strategy thinks it worth."""
        if self._shared(space):
            self._writer.add(partial(self._rank, space, tuple(ids), rank))

    def flush(self) -> None:
        """Wait until all that was given is written, and write what memory holds to tiers that are written back."""
        back = len(self._paths.through) < len(self._below)
        for space, ids in self.front.paths() if back else ():
            if self._shared(space):
                self._paths.write_back((space, tuple(ids)))
        self._writer.flush()

    def clear(self) -> None:
        """Free the memory and empty the scratch spaces; entries in tiers stay, other processes may use them."""
        self.front.clear()

    def close(self) -> None:
        """Flush, free the memory, and let go of files and connections."""
        self.flush()
        self.front.close()
        for tier in self._below:
            tier.close()

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated in memory."""
        return self.front.nbytes

    def __repr__(self) -> str:
        """Return what the store is and holds, in a line; ``tiers`` is the table."""
        return in_short(self)

    @property
    def tiers(self) -> pd.DataFrame:
        """Return ``figures`` as a table, one row a tier."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.figures())

    def figures(self) -> list[dict[str, int | float | str]]:
        """Return the figures of memory, then those of each tier, there with its ``form`` and the ``error`` it makes."""
        how: dict[str, int | float | str] = {
            "form": self.form.name,
            "error": max(self._largest_error, self.snapshots.error),
        }
        return [*self.front.figures(), *(tier.figures() | how for tier in self._below)]

    @property
    def _largest_error(self) -> float:
        """Return the largest error that the form has made of what was written or read."""
        return max(self._error, self._paths.error)

    def ls(self) -> pd.DataFrame:
        """Return one row for each sequence in memory."""
        return self.front.ls()

    # reading from tiers

    def _shared(self, space: Space) -> bool:
        return self.form.every_token and space.lineage in SHAREABLE and space.model not in self._stateful

    def _search(
        self, space: Space, ids: Sequence[int], start: int, stop: int, tiers: Sequence[GuardedTier]
    ) -> Iterator[FoundSpan]:
        block = space.block or 1
        stop -= stop % block
        if start < stop and self._shared(space):
            yield from PathSearch(PathKeys(space, ids, self.form.name), ids, tiers, start, stop, block).spans()

    def _found(self, space: Space, ids: Sequence[int], start: int, stop: int) -> list[FoundSpan]:
        found = list(self._search(space, ids, start, stop, self._below))
        self._error = max([self._error, *(span.entry.header.facts.error for span in found)])
        return found

    def _read(self, found: Sequence[FoundSpan]) -> LayerReader:
        """Have ``found`` read into memory of its own, as far as there is room for it."""
        spans = []
        for span in found:
            into: list[KV] = []
            if not span.tier.arrival(lambda: into.append(room_for(span, self.devices))):  # noqa: B023  (called at once)
                break
            spans.append(ArrivingSpan(span, into[0]))
        return self._begin(spans)

    def _begin(self, spans: Sequence[ArrivingSpan]) -> LayerReader:
        return LayerReader(spans, self._reads, self.bus)

    def _used(self, spans: Sequence[FoundSpan]) -> None:
        """Note the use of what was loaded, what comes first as the most recent, and have faster tiers keep it too."""
        for tier in self._below:
            if here := [span.entry.header.key for span in reversed(spans) if span.tier is tier]:
                self._writer.add(partial(tier.use, here))
            elif not spans:
                tier.missed()
        for span in spans:
            for faster in self._below[: self._below.index(span.tier)]:
                self._writer.add(partial(faster.put, span.entry))

    def _load_into(self, lease: Lease, ids: Sequence[int], limit: int) -> None:
        if lease.known >= limit:
            return
        found = self._found(lease.space, ids, lease.known, len(ids))
        if found:
            LeaseArrival(lease, found, limit, self.devices, partial(self._told, lease)).begin(self._begin)
        else:
            self._used(())

    def _told(self, lease: Lease, spans: Sequence[FoundSpan]) -> None:
        lossy = f" ({self.form.name}, off by up to {self._largest_error:.2%})" if self.form.name else ""
        lease.notes += [
            f"read {plural(span.stop - span.start, 'token')} of KV from {span.tier.name}{lossy}" for span in spans
        ]
        self._used(spans)

    def _load_states(self, lease: Lease, ids: Sequence[int], least: int, limit: int) -> None:
        """Have ``lease`` end at the last state checkpoint, behind ``least`` tokens, that tiers have with the K/V."""
        if not self.snapshots.takes(STATES):
            self._stateful.add(lease.space.model)
            lease.notes.append(f"only memory keeps KV of a model with recurrent layers, not tiers of {self.form.name}")
            return
        found = self.snapshots.find(lease.space, STATES, ids, least, limit)
        if found is None:
            return
        at = lease.matched
        try:
            with self.reading(lease.space, ids[: found.stop], lease.matched) as views:
                for begin, kv in views:
                    lease.buffer.write(begin, kv)
                    at = begin + kv.length
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            lease.notes.append(f"no memory for KV from {found.tier}: it was computed again")
            at = -1
        if at < found.stop:
            lease.buffer.truncate(lease.matched)
            return
        lease.matched, lease.unproved = found.stop, found
        lease.known, lease.branch = max(lease.known, found.stop), max(lease.branch, found.stop)
        lease.checkpoint = unpack(found)
        lease.notes.append(
            f"states after {plural(found.stop, 'token')} were read from {found.tier} and proved by a golden row"
        )

    def _keep_states(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint]) -> None:
        """Have the states behind tokens of ``ids`` written; of a model whose states cannot be, no K/V are either."""
        made = [*lease.made, *checkpoints]
        if any(checkpoint.states.shell is not None for checkpoint in made):
            self._stateful.add(lease.space.model)
        for checkpoint in made if self.snapshots.takes(STATES) and self._shared(lease.space) else ():
            packed, at = pack(checkpoint), checkpoint.states.at
            if packed is not None and at <= len(ids):
                self.snapshots.put(lease.space, STATES, ids[:at], packed)

    def _rank(self, space: Space, ids: tuple[int, ...], rank: float) -> None:
        for tier in self._below:
            for span in self._search(space, ids, 0, len(ids), [tier]):
                tier.rank(span.entry.header.key, rank)

    def _evicted(self, space: Space, ids: Sequence[int], start: int, kv: KV, priority: int) -> None:
        """Have ``kv``, which memory evicts, written where that was not done yet; called inside memory's lock."""
        if self._shared(space):
            self._paths.evicted(space, ids, start, kv, priority)
