"""``ttft.tiers``: the first token of a prompt whose first 2,048 tokens only a tier holds and whose last 32 are new.

The floor is the longer of two things measured in the same run: the loading alone, waited for, and the same request with
its K/V in memory. A prefill that hides the loading of a layer behind the computing of the one before it takes no more.
Files are read while the operating system has them in memory, and the Redis server is on this machine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import nbkv
from nbkv.bench.agreement import DRAWS, Reference, decided
from nbkv.bench.first_token import first_token, loading
from nbkv.bench.measure import CONTEXT, BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, half, make
from nbkv.bench.store_io import redis_server
from nbkv.events import Bus, Event, TierRead
from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiered import TieredStore
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.host import HostTier

NAME, NEW, CHECKED, FULL, MEMORY = "ttft.tiers", 32, 4, "full", "memory"
_ROOM = 2**33  # bytes of memory, where everything fits


@dataclass(eq=False)
class TierWork:
    """Requests of a session behind the tokens ``base``, whose K/V are in ``tier`` (None: in memory)."""

    bench: Bench
    base: list[int]
    seeds: Iterator[int]
    tier: Tier | None
    reads: list[TierRead] = field(default_factory=list)
    last: list[TierRead] = field(default_factory=list)  # that of the last request, not of a loading alone

    def __post_init__(self) -> None:
        """Have the tokens be stored."""
        bus = Bus()
        bus.add(self._hear)
        front = MemoryStore(_ROOM, bus)
        self.store = front if self.tier is None else TieredStore(front, [self.tier], bus)
        options: dict[str, Any] = {"tokenizer": self.bench.tokenizer, "strategy": "prefix", "store": self.store}
        self.session = nbkv.load(self.bench.model, **options)
        self.session.generate(self.bench.text(self.base), max_new_tokens=1)

    @property
    def name(self) -> str:
        """Return where the K/V are."""
        return MEMORY if self.tier is None else self.tier.name

    def prompt(self) -> str:
        """Return a prompt with new tokens behind the base; K/V are where they belong from now on."""
        self.leave()
        return self.bench.text(self.base + self.bench.ids(NEW, seed=next(self.seeds)))

    def leave(self) -> None:
        """Have only the tier hold K/V, if there is one."""
        self.store.flush()
        if self.tier is not None:
            self.store.clear()

    def first(self, text: str, strategy: str = "prefix") -> float:
        """Return the seconds to the first token."""
        seconds = first_token(self.session, text, strategy=strategy).seconds
        self.last = self.reads[-1:]
        return seconds

    def load(self, _: object) -> float:
        """Return the seconds of loading alone, waited for, into a buffer as a request has one."""
        return loading(self.session, self.base, NEW)

    def wrong(self, ids: list[int], wanted: Reference) -> str:
        """Return why a request's answer cannot be trusted; empty if it is the reference's, all base tokens reused."""
        self.leave()
        del self.reads[:]
        result = self.session.generate(self.bench.text(ids), max_new_tokens=CHECKED)
        if result.tokens.reused != len(self.base):
            return f"{result.tokens.reused} of {len(self.base)} stored tokens were reused"
        if self.tier is not None and sum(read.tokens for read in self.reads) < len(self.base):
            return f"not all of them were read from {self.name}"
        return wanted.differs(result.token_ids)

    def told(self) -> tuple[str, ...]:
        """Return how much of the last request's loading was hidden."""
        return tuple(
            f"{read.ahead} of {read.layers} layers were there before they were needed: "
            f"{1 - min(1.0, read.waited / max(read.seconds, 1e-9)):.0%} of {read.seconds * 1e3:.1f} ms was hidden"
            for read in self.last
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, TierRead) and event.tokens >= len(self.base) - 1:
            self.reads.append(event)


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure requests whose prefix is in memory, in the host's, on disk and on Redis, against ``full``."""
    context, bench = context or CONTEXT, make(shape or "s06", half())
    base, seeds = bench.ids(context, seed=1), itertools.count(2 + DRAWS)
    row = BenchRow(name=NAME, regime=bench.regime(cached=context, new=NEW, rounds=rounds), against=FULL)
    ids, wanted = decided(bench, base, NEW, CHECKED)
    with ExitStack() as stack:
        tiers, missing = _tiers(stack)
        works = [TierWork(bench, base, seeds, tier) for tier in (None, *tiers)]
        for work in works:
            stack.callback(work.session.close)
        refused = {work.name: work.wrong(ids, wanted) for work in works}
        sound = [work for work in works if not refused[work.name]]
        seconds = {} if refused[MEMORY] else interleaved(_candidates(sound), rounds)
        rows = [replace(row, strategy=work.name, refused=refused[work.name]) for work in works]
        rows = [
            _measured(each, work, seconds) if work in sound and seconds else each
            for each, work in zip(rows, works, strict=True)
        ]
    return [*rows, *(replace(row, strategy=name, missing=why) for name, why in missing.items())]


def _tiers(stack: ExitStack) -> tuple[list[Tier], dict[str, str]]:
    """Return the tiers to measure, and why others cannot be."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nbkv-ttft-tiers-"))
    tiers: list[Tier] = [
        HostTier(writes="through", pinned=torch.cuda.is_available()),
        DiskTier(root=Path(folder)),
    ]
    url = stack.enter_context(redis_server(folder))
    if url is None:
        return tiers, {"redis": "redis-server is not installed"}
    from nbkv.stores.tiers.redis import RedisTier  # noqa: PLC0415  (an extra)

    return [*tiers, RedisTier(url=url, timeout_s=60)], {}


def _candidates(works: list[TierWork]) -> list[TimedCandidate]:
    memory = works[0]
    candidates = [TimedCandidate(FULL, partial(memory.first, strategy=FULL), memory.prompt)]
    for work in works:
        candidates.append(TimedCandidate(work.name, work.first, work.prompt))
        if work.tier is not None:
            candidates.append(TimedCandidate(_loading(work.name), work.load, work.leave))
    return candidates


def _measured(row: BenchRow, work: TierWork, seconds: dict[str, float]) -> BenchRow:
    compute, load = seconds[MEMORY], seconds.get(_loading(work.name))
    given: dict[str, Any] = {"baseline": seconds[FULL], "ours": seconds[work.name]}
    if load is None:
        return replace(row, **given)
    parts = f"loading alone {load * 1e3:.1f} ms, in memory {compute * 1e3:.1f} ms"
    return replace(row, **given, floor=max(load, compute), notes=(parts, *work.told()))


def _loading(name: str) -> str:
    return f"loading from {name}"
