"""Writes the K/V of token paths to tiers: what a request has left, what memory evicts, and all of it when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from nbkv.events import Bus, Stored
from nbkv.kv import KV, Space
from nbkv.stores.memory import MemoryStore
from nbkv.stores.search import FoundSpan
from nbkv.stores.tiers.entry import Entry, make_entry
from nbkv.stores.tiers.forms import StorageForm, error
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.writer import BackgroundWriter

Path = tuple[Space, tuple[int, ...]]
# What tiers hold of the token ids of a space, from one position to another.
Search = Callable[[Space, Sequence[int], int, int, Sequence[GuardedTier]], Iterator[FoundSpan]]


@dataclass(frozen=True, eq=False)
class UnwrittenSpan:
    """K/V of ``ids[start:]`` on its way to the tiers, in memory of its own."""

    space: Space
    ids: Sequence[int]
    start: int
    kv: KV
    facts: EntryFacts


@dataclass(eq=False)
class PathWriter:
    """Has ``background`` write to ``tiers`` what ``memory`` holds, as entries of ``form``, sealed by ``sealer``.

    ``search`` says what of it tiers have already. ``error`` is the largest that the form has made of what was written.
    """

    memory: MemoryStore
    tiers: Sequence[GuardedTier]
    search: Search
    background: BackgroundWriter
    bus: Bus
    form: StorageForm
    sealer: Sealer
    facts: EntryFacts
    clock: Callable[[], float]
    error: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Nothing waits."""
        self.through = [tier for tier in self.tiers if tier.tier.writes == "through"]
        self._pending: Counter[Path] = Counter()

    def expect(self, path: Path) -> None:
        """Take note that memory is about to be given ``path``: if it evicts some of that first, it is written then."""
        self._pending[path] += 1

    def given(self, path: Path, seconds: float) -> None:
        """Have tiers that are written through hold ``path``, which was expected and took ``seconds`` to compute."""
        self.background.add(partial(self._write_pending, *path, replace(self.facts, seconds=seconds)))
        self.background.throttle()

    def write_back(self, path: Path) -> None:
        """Have the tiers that are not written through hold ``path``, as far as memory does then."""
        back = [tier for tier in self.tiers if tier not in self.through]
        self.background.add(partial(self._write_path, *path, self.facts, back))

    def evicted(self, space: Space, ids: Sequence[int], start: int, kv: KV, priority: int) -> None:
        """Have ``kv``, which memory evicts, written where that was not done yet; called inside memory's lock."""
        waits = any(known == space and path[: len(ids)] == tuple(ids) for known, path in tuple(self._pending))
        if waits or len(self.through) < len(self.tiers):
            self.write_copy(space, ids, start, kv, priority)

    def write_copy(self, space: Space, ids: Sequence[int], start: int, kv: KV, priority: int = 0) -> None:
        """Have a copy of ``kv``, the K/V of ``ids[start:]``, written to all tiers."""
        path, copy, facts = tuple(ids), kv.on_host(), replace(self.facts, priority=priority)

        def write() -> None:
            for tier in self.tiers:
                reach = max(start, self._reach(space, path, tier))
                if reach < len(path):
                    self._write(tier, UnwrittenSpan(space, path, reach, copy[reach - start :], facts))

        self.background.add(write, copy.nbytes)

    def _write_pending(self, space: Space, ids: tuple[int, ...], facts: EntryFacts) -> None:
        try:
            self._write_path(space, ids, facts, self.through)
        finally:
            self._pending[space, ids] -= 1
            if self._pending[space, ids] <= 0:
                del self._pending[space, ids]

    def _write_path(self, space: Space, ids: tuple[int, ...], facts: EntryFacts, tiers: Sequence[GuardedTier]) -> None:
        for tier in tiers:
            reach = self._reach(space, ids, tier)
            kv = self.memory.copied(space, ids, reach) if reach < len(ids) else None
            if kv is not None:
                for span in self._runs(UnwrittenSpan(space, ids[: reach + kv.length], reach, kv, facts)):
                    self._write(tier, span)

    def _runs(self, whole: UnwrittenSpan) -> Iterator[UnwrittenSpan]:
        """Yield ``whole`` in spans of one priority, as memory has them, each with its share of the seconds."""
        at, stop = whole.start, len(whole.ids)
        runs = [(min(stop, end), priority) for end, priority in self.memory.runs(whole.space, whole.ids, at)]
        for end, priority in [*runs, (stop, 0)]:  # what memory has evicted meanwhile has the usual one
            if end > at:
                seconds = whole.facts.seconds * (end - at) / whole.kv.length
                facts = replace(whole.facts, seconds=seconds, priority=priority)
                kv = whole.kv[at - whole.start : end - whole.start]
                yield UnwrittenSpan(whole.space, whole.ids[:end], at, kv, facts)
            at = max(at, end)

    def _reach(self, space: Space, ids: Sequence[int], tier: GuardedTier) -> int:
        """Return how many of the first tokens of ``ids`` are in ``tier``."""
        at = 0
        for span in self.search(space, ids, 0, len(ids), [tier]):
            at = span.stop
        return at

    def _write(self, tier: GuardedTier, span: UnwrittenSpan) -> None:
        def entry() -> Entry:
            layers = zip(span.kv.keys, span.kv.values, strict=True)
            moved = max((error(self.form, keys, values) for keys, values in layers), default=0.0)
            self.error = max(self.error, moved)
            facts = replace(span.facts, made=self.clock(), error=moved)
            return make_entry(
                span.space, span.ids, span.start, span.kv, form=self.form, sealer=self.sealer, facts=facts
            )

        if tier.put_made(entry) and self.bus.heard:
            self.bus.emit(Stored(tokens=span.kv.length, nbytes=span.kv.nbytes, tier=tier.name))
