"""The tiered store: memory that requests run in, and below it tiers where KV outlives the process.

What a request leaves in memory is written to the tiers behind its back, or when memory evicts it and when the store is
flushed, as each tier says (``writes``). What memory lacks of a prompt is looked for in the tiers, fastest first, and
loaded into the very buffer that the request appends to. Whatever goes wrong in a tier is a miss.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from nbkv.events import Bus, Stored, TierRead
from nbkv.kv import KV, Space
from nbkv.stores.base import Buffer, Keeping, Lease, ScratchSpaces
from nbkv.stores.memory import MemoryStore
from nbkv.stores.search import FoundSpan, PathSearch
from nbkv.stores.state_checkpoints import StateCheckpoint
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.entry import Entry, EntryFacts, Sealer, make_entry
from nbkv.stores.tiers.forms import AsItIs, StorageForm, error
from nbkv.stores.tiers.guard import GuardedTier, out_of_memory
from nbkv.stores.tiers.key import EntryKey, PathKeys
from nbkv.stores.writer import BackgroundWriter, SharedWork

if TYPE_CHECKING:
    import pandas as pd

SHAREABLE = ("exact", "canonical")  # what a strategy made under approximations is its own session's


@dataclass(frozen=True, eq=False)
class LoadedSpan:
    """K/V of the tokens ``[start, stop)``, loaded from the tier ``tier``."""

    start: int
    stop: int
    kv: KV
    tier: str


@dataclass(frozen=True, eq=False)
class UnwrittenSpan:
    """K/V of ``ids[start:]`` on its way to the tiers, in memory of its own."""

    space: Space
    ids: Sequence[int]
    start: int
    kv: KV
    facts: EntryFacts


@dataclass(eq=False)
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
        self._through = [tier for tier in self._below if tier.tier.writes == "through"]
        self._writer = BackgroundWriter()
        self._loads: SharedWork[EntryKey, KV | None] = SharedWork()
        self._pending: Counter[tuple[Space, tuple[int, ...]]] = Counter()
        self._error = 0.0  # the largest that the form has made of what was written or read
        self._stateful: set[str] = set()  # models whose KV is of no use without states that only memory holds
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
    ) -> Lease:
        """Lease a buffer with the longest prefix that memory and tiers know; of recurrent models, that memory knows."""
        lease = self.front.take(space, ids, limit, new, states_from=states_from, branch_at=branch_at)
        if states_from is not None:
            self._stateful.add(space.model)
            lease.notes.append("only memory keeps KV of a model with recurrent layers: tiers hold no states")
            return lease
        try:
            self._load_into(lease, ids, limit)
        except BaseException:
            self.front.discard(lease)
            raise
        return lease

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """End ``lease``, keep what its buffer holds, and have it written to the tiers."""
        through = bool(self._through) and self._shared(lease.space)
        path = lease.space, tuple(ids[: len(lease.space.path(ids))])
        if through:
            self._pending[path] += 1
        self.front.give(lease, ids, checkpoints)
        if through:
            facts = replace(self.facts, seconds=lease.seconds)
            self._writer.add(partial(self._write_pending, *path, facts))
            self._writer.throttle()

    def put(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> int:
        """Keep a copy of ``kv``, the K/V of ``ids[start:]``, in memory, and have it written to the tiers."""
        new = self.front.put(space, ids, start, kv)
        if self._shared(space):
            self._keep_written(space, ids, start, kv)
            self._writer.throttle()
        return new

    def discard(self, lease: Lease) -> None:
        """End ``lease``; what the request wrote is dropped, what was known before stays."""
        self.front.discard(lease)

    @contextmanager
    def reading(self, space: Space, ids: Sequence[int], start: int = 0) -> Iterator[list[tuple[int, KV]]]:
        """Give the known K/V of ``ids[start:]``: views of memory, then what the tiers have; memory keeps that too."""
        known = self.front.holds(space, ids)
        loaded = list(self._load(space, ids, max(known, start), len(ids)))
        with self.front.reading(space, ids, start) as views:
            reach = max(self.front.holds(space, ids), start)
            yield [*views, *((max(span.start, reach), span.kv[max(0, reach - span.start) :]) for span in loaded)]
        for span in loaded:
            self.front.adopt(space, ids[: span.stop], span.start, span.kv)

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` memory and tiers know; damage is found when they are read."""
        known, at = self.front.holds(space, ids), 0
        for span in self._search(space, ids, known, len(ids), self._below):
            at = span.stop
        return max(known, at)

    def keep(self, space: Space, ids: Sequence[int], how: Keeping) -> int:
        """Have every entry along ``ids`` be kept as ``how`` says, in all tiers, once what waits is written."""
        self.flush()
        most, facts = self.front.keep(space, ids, how), replace(self.facts, **asdict(how))
        for tier in self._below:
            for span in self._search(space, ids, 0, len(ids), [tier]):
                if tier.keep(span.entry.header.key, facts):
                    most = max(most, span.stop)
        return most

    def flush(self) -> None:
        """Wait until all that was given is written, and write what memory holds to tiers that are written back."""
        back = [tier for tier in self._below if tier not in self._through]
        for space, ids in self.front.paths() if back else ():
            if self._shared(space):
                self._writer.add(partial(self._write_path, space, tuple(ids), self.facts, back))
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

    @property
    def tiers(self) -> pd.DataFrame:
        """Return ``figures`` as a table, one row a tier."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.figures())

    def figures(self) -> list[dict[str, int | float | str]]:
        """Return the figures of memory, then those of each tier, there with its ``form`` and the ``error`` it makes."""
        how: dict[str, int | float | str] = {"form": self.form.name, "error": self._error}
        return [*self.front.figures(), *(tier.figures() | how for tier in self._below)]

    def ls(self) -> pd.DataFrame:
        """Return one row for each sequence in memory."""
        return self.front.ls()

    # reading from tiers

    def _shared(self, space: Space) -> bool:
        return space.lineage in SHAREABLE and space.model not in self._stateful

    def _search(
        self, space: Space, ids: Sequence[int], start: int, stop: int, tiers: Sequence[GuardedTier]
    ) -> Iterator[FoundSpan]:
        block = space.block or 1
        stop -= stop % block
        if start < stop and self._shared(space):
            yield from PathSearch(PathKeys(space, ids, self.form.name), ids, tiers, start, stop, block).spans()

    def _load(self, space: Space, ids: Sequence[int], start: int, stop: int) -> Iterator[LoadedSpan]:
        """Load the K/V of ``ids`` from ``start`` on to their devices, as far as tiers have them whole."""
        used: list[FoundSpan] = []
        for span in self._search(space, ids, start, stop, self._below):
            began = time.perf_counter()
            kv = self._loads.do(span.entry.header.key, partial(span.tier.load, span.entry, self.devices))
            if kv is None:
                break
            used.append(span)
            self._error = max(self._error, span.entry.header.facts.error)
            own = kv[span.start - span.entry.header.start : span.stop - span.entry.header.start]
            if self.bus.heard:
                seconds = time.perf_counter() - began
                self.bus.emit(TierRead(tokens=own.length, nbytes=own.nbytes, tier=span.tier.name, seconds=seconds))
            yield LoadedSpan(span.start, span.stop, own, span.tier.name)
        self._used(used)

    def _used(self, spans: Sequence[FoundSpan]) -> None:
        """Note the use of what was loaded, what comes first as the most recent, and have faster tiers keep it too."""
        for tier in self._below:
            if here := [span.entry.header.key for span in reversed(spans) if span.tier is tier]:
                tier.use(here)
            elif not spans:
                tier.missed()
        for span in spans:
            for faster in self._below[: self._below.index(span.tier)]:
                self._writer.add(partial(faster.put, span.entry))

    def _load_into(self, lease: Lease, ids: Sequence[int], limit: int) -> None:
        if lease.known >= limit:
            return
        for span in self._load(lease.space, ids, lease.known, len(ids)):
            lease.known = span.stop
            if span.start < limit:
                within = span.kv[: limit - span.start]
                try:
                    lease.buffer.write(span.start, within)
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    lease.buffer.truncate(lease.matched)
                    lease.known = lease.matched
                    lease.notes.append(f"no memory for KV from {span.tier}: it was computed again")
                    return
                lease.matched = lease.branch = span.start + within.length
                lossy = f" ({self.form.name}, off by up to {self._error:.2%})" if self.form.name else ""
                lease.notes.append(f"{within.length} tokens of KV were read from {span.tier}{lossy}")

    # writing to tiers

    def _write_path(self, space: Space, ids: tuple[int, ...], facts: EntryFacts, tiers: Sequence[GuardedTier]) -> None:
        """Have ``tiers`` hold ``ids``, as far as memory still does."""
        for tier in tiers:
            reach = self._reach(space, ids, tier)
            kv = self.front.copied(space, ids, reach) if reach < len(ids) else None
            if kv is not None:
                self._write(tier, UnwrittenSpan(space, ids[: reach + kv.length], reach, kv, facts))

    def _write_pending(self, space: Space, ids: tuple[int, ...], facts: EntryFacts) -> None:
        try:
            self._write_path(space, ids, facts, self._through)
        finally:
            self._pending[space, ids] -= 1
            if self._pending[space, ids] <= 0:
                del self._pending[space, ids]

    def _reach(self, space: Space, ids: Sequence[int], tier: GuardedTier) -> int:
        """Return how many of the first tokens of ``ids`` are in ``tier``."""
        at = 0
        for span in self._search(space, ids, 0, len(ids), [tier]):
            at = span.stop
        return at

    def _evicted(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> None:
        """Have ``kv``, which memory evicts, written where that was not done yet; called inside memory's lock."""
        waits = any(known == space and path[: len(ids)] == tuple(ids) for known, path in tuple(self._pending))
        if self._shared(space) and (waits or len(self._through) < len(self._below)):
            self._keep_written(space, ids, start, kv)

    def _keep_written(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> None:
        path, copy = tuple(ids), kv.on_host()

        def write() -> None:
            for tier in self._below:
                reach = max(start, self._reach(space, path, tier))
                if reach < len(path):
                    self._write(tier, UnwrittenSpan(space, path, reach, copy[reach - start :], self.facts))

        self._writer.add(write, copy.nbytes)

    def _write(self, tier: GuardedTier, span: UnwrittenSpan) -> None:
        def entry() -> Entry:
            layers = zip(span.kv.keys, span.kv.values, strict=True)
            moved = max((error(self.form, keys, values) for keys, values in layers), default=0.0)
            self._error = max(self._error, moved)
            facts = replace(span.facts, made=self.clock(), error=moved)
            return make_entry(
                span.space, span.ids, span.start, span.kv, form=self.form, sealer=self.sealer, facts=facts
            )

        if tier.put_made(entry) and self.bus.heard:
            self.bus.emit(Stored(tokens=span.kv.length, nbytes=span.kv.nbytes, tier=tier.name))
