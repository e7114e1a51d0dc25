"""Prefix reuse: the longest stored prefix is continued in place, only the rest of the prompt is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np

from nbkv.context import Context, Request
from nbkv.events import Fallback, NotKept, Reused
from nbkv.families.prefix import state_checkpoints
from nbkv.families.prefix.priorities import priorities
from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.show.units import plural, size
from nbkv.stores.base import Lease
from nbkv.stores.reading.layer_reader import LoadLost
from nbkv.stores.tiers.guard import out_of_memory
from nbkv.strategy import Prefilled, Strategy
from nbkv.timing import timed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROOM = (
    512  # a new line has room for half of its first request again, at least this many tokens: chats then grow in place
)


@dataclass(kw_only=True, repr=False)
class Prefix(Strategy):
    """Continue the longest prefix whose K/V the store holds; the hooks are ``reusable`` and ``every``."""

    family: ClassVar[str] = "prefix"
    needs: ClassVar[tuple[str, ...]] = ("prefix",)

    def reusable(self, ids: Sequence[int], ctx: Context) -> int:
        """Return how many first tokens of ``ids`` may be reused; at least the last must run, for its logits."""
        adapter = ctx.adapter
        return adapter.reusable(len(ids)) if len(ids) <= adapter.capabilities.stable_context else 0

    def every(self, n: int, ctx: Context) -> int:
        """Return the interval, in tokens of a prompt of ``n``, of recurrent layers' state checkpoints; 0: none."""
        return state_checkpoints.segment(n, ctx.adapter.capabilities, ctx.store.limit)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Lease the longest stored prefix, run the rest of the prompt behind it; discard the lease if that raises."""
        clock, ids = timed(), request.ids
        needed, most = len(ids) + request.max_new_tokens, ctx.adapter.capabilities.context

        def room(base: int) -> int:
            return min(needed + max(_ROOM, (needed - base) // 2), max(needed, most))

        lease = _take(ids, self.reusable(ids, ctx), ctx, room(0), layerwise=True)
        cache, arriving = _leased(lease), lease.arrival is not None
        cache.reserve(room(cache.base))
        load_s = clock()
        if lease.matched and not arriving:
            ctx.tell(Reused, start=0, stop=lease.matched, tier=ctx.store.name)
        rows = ctx.work()
        try:
            ran = self._run_arriving(request, lease, ctx, rows)
            load_s += lease.waited
            lease.seconds = clock() - load_s
        except BaseException:
            ctx.store.discard(lease)
            raise
        if lease.matched and arriving:
            ctx.tell(Reused, start=0, stop=lease.matched, tier=ctx.store.name)
        return Prefilled(
            cache=cache,
            logits=ran.logits,
            provenance=_provenance(len(ids), lease, ctx),
            rows=rows,
            load_s=load_s,
            notes=[*_notes(len(ids), lease, ctx), *_one_by_one(ran.one_by_one, clock() - load_s, ctx)],
            lease=lease,
        )

    def _run_arriving(self, request: Request, lease: Lease, ctx: Context, work: Work) -> state_checkpoints.PrefillPass:
        """Run while the leased prefix still arrives, layer by layer; again behind what did, where some is lost."""
        ran = None
        try:
            ran = self._run(request, lease, ctx, work)
        except LoadLost:
            assert lease.arrival is not None  # noqa: S101
        whole = lease.arrival is None or lease.arrival.settle()
        return ran if ran is not None and whole else self._run(request, lease, ctx, work)

    def _run(self, request: Request, lease: Lease, ctx: Context, work: Work) -> state_checkpoints.PrefillPass:
        """Run the tokens behind the leased prefix; clone recurrent states where checkpoints are wanted."""
        adapter, cache, ids = ctx.adapter, _leased(lease), request.ids
        if adapter.capabilities.per_token:
            return state_checkpoints.PrefillPass(adapter.prefill(ids, cache, start=lease.matched, work=work))
        stops = (
            state_checkpoints.cuts(len(ids), lease, adapter.capabilities, self.every(len(ids), ctx))
            if request.keep
            else []
        )
        kept = state_checkpoints.are_kept(ctx.store.snapshots)
        ran = state_checkpoints.run(adapter, ids, cache, stops, work, proved=kept)
        lease.made = state_checkpoints.checkpoints(ran.states, adapter, ran.golden)
        return ran

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Give the K/V of prompt and answer to the store, with the state checkpoints made and one at the end."""
        assert prefilled.lease is not None  # noqa: S101
        stable, cache = ctx.adapter.capabilities.stable_context, _leased(prefilled.lease)
        if request.keep and len(request.ids) <= stable:
            kept = ids[: min(stable, cache.length)]
            prefilled.lease.priorities = priorities(kept, request, ctx)
            ctx.store.give(prefilled.lease, kept, state_checkpoints.checkpoints([cache.release()], ctx.adapter))
            prefilled.notes += left_out(prefilled.lease, ctx)
        else:
            ctx.store.discard(prefilled.lease)


def encode(ids: Sequence[int], ctx: Context, work: Work | None = None) -> list[str]:
    """Have the store hold the K/V of ``ids``; run what it lacks, and return what is to be said of it."""
    return left_out(_encoded(ids, ctx, work or ctx.work()), ctx)


def _encoded(ids: Sequence[int], ctx: Context, work: Work) -> Lease:
    lease = _take(ids, len(ids), ctx)
    cache, matched = _leased(lease), lease.matched
    try:
        if matched < len(ids):
            ctx.adapter.prefill(ids, cache, start=matched, work=work)
    except BaseException:
        ctx.store.discard(lease)
        raise
    ctx.store.give(lease, ids, state_checkpoints.checkpoints([cache.release()], ctx.adapter))
    return lease


def left_out(lease: Lease, ctx: Context) -> list[str]:
    """Return the note that what ``lease`` held was too large for the store, and tell who listens; empty if it fits."""
    return not_kept(lease.too_large, ctx) if lease.too_large else []


def not_kept(needed: int, ctx: Context) -> list[str]:
    """Return the note that K/V of ``needed`` bytes found no room in memory, and tell who listens."""
    limit = ctx.store.limit
    others = "" if needed > limit else ", most of it in use by requests that run"
    where = f" in {ctx.store.name}" if len(ctx.store.figures()) > 1 else ""  # tiers below may hold it all the same
    why = f"not kept{where}: needs {size(needed)}, limit {size(limit)}{others}"
    ctx.tell(NotKept, nbytes=needed, limit=limit, tier=ctx.store.name, why=why)
    return [why]


class HeldPrefix(NamedTuple):
    """K/V of a prefix where they are stored, in ``pieces`` one after another; the store had the first ``matched``."""

    pieces: tuple[KV, ...]
    matched: int


@contextmanager
def held(ids: Sequence[int], ctx: Context, work: Work) -> Iterator[HeldPrefix]:
    """Within the block the K/V of ``ids`` are there to be read; what the store lacks is run, and kept afterwards.

    Where the store has room it has them from the beginning, so that a longer prefix can go on from this one meanwhile.
    """
    fits = len(ids) * ctx.adapter.token_bytes <= ctx.store.limit
    ran = len(ids) - _encoded(ids, ctx, work).matched if fits else 0
    lease = _take(ids, len(ids), ctx)
    cache = _leased(lease)
    try:
        if lease.matched < len(ids):
            ran = max(ran, len(ids) - lease.matched)
            cache.reserve(len(ids))
            ctx.adapter.prefill(ids, cache, start=lease.matched, work=work)
    except BaseException:
        ctx.store.discard(lease)
        raise
    try:
        own = cache.read(cache.base, len(ids))
        yield HeldPrefix((*cache.pieces, own) if own.length else cache.pieces, len(ids) - ran)
    finally:
        ctx.store.give(lease, ids)


def adopt(ids: Sequence[int], kv: KV, ctx: Context) -> None:
    """Have the store hold ``kv``, the K/V of ``ids`` from elsewhere, as if this model had computed them just now."""
    lease = _take(ids, len(ids), ctx)
    try:
        if lease.matched < len(ids):
            _leased(lease).write(lease.matched, kv[lease.matched :])
    except BaseException:
        ctx.store.discard(lease)
        raise
    ctx.store.give(lease, ids)


def _take(
    ids: Sequence[int],
    limit: int,
    ctx: Context,
    reserve: int = 0,
    *,
    layerwise: bool = False,
    states: bool = True,
) -> Lease:
    """Lease the longest stored prefix of ``ids``; with recurrent layers, one that ends at a state checkpoint.

    A new buffer has room for ``reserve`` tokens. Without ``states`` none are gone on from.
    """
    found = ctx.adapter.capabilities
    least = state_checkpoints.least(len(ids), found) if states else len(ids) + 1
    branch_at = ctx.adapter.branch_at if found.branches else None
    new = partial(ctx.adapter.growing, reserve)
    states_from = least if found.states else None
    options: dict[str, Any] = {"states_from": states_from, "branch_at": branch_at, "layerwise": layerwise}
    lease = ctx.store.take(ctx.space(), ids, limit, new, **options)
    try:
        if lease.unproved is None:
            _leased(lease).resume(None if lease.checkpoint is None else lease.checkpoint.states)  # type: ignore[arg-type]  # ours
            return lease
        why = state_checkpoints.disproved(ctx.adapter, _leased(lease), lease)
    except BaseException as error:  # no memory for another clone
        ctx.store.discard(lease)
        if lease.unproved is None or not isinstance(error, Exception) or not out_of_memory(error):
            raise
        again = _take(ids, limit, ctx, reserve, layerwise=layerwise, states=False)
        again.notes.append(f"no memory for states from {lease.unproved.tier}: the prompt was computed again")
        return again
    if not why:
        return lease
    lease.unproved.refuse(f"states after {plural(lease.unproved.stop, 'token')}: {why}")
    ctx.store.discard(lease)
    return _take(ids, limit, ctx, reserve, layerwise=layerwise)


def _leased(lease: Lease) -> GrowingCache:
    """Return the cache on lease; a store hands out what ``ModelAdapter.growing`` and ``branch_at`` made for it."""
    return cast("GrowingCache", lease.buffer)


def _provenance(n: int, lease: Lease, ctx: Context) -> NDArray[np.uint8]:
    provenance = np.full(n, Provenance.FRESH, dtype=np.uint8)
    provenance[: lease.matched] = Provenance.PREFIX
    if lease.known == n or ctx.adapter.capabilities.states:
        provenance[lease.matched : lease.known] = Provenance.RECOMPUTED
    return provenance


def _notes(n: int, lease: Lease, ctx: Context) -> list[str]:
    found, notes = ctx.adapter.capabilities, list(lease.notes)
    if lease.copied:
        notes.append(f"copied {plural(lease.copied, 'token')} of KV to branch off a shared prefix")
    if (cache := _leased(lease)).base:
        shared = f"reads {plural(cache.base, 'token')} of KV where another branch keeps it"
        notes.append(f"{shared}: attention in {len(cache.pieces) + 1} parts")
    if n > found.stable_context:
        notes.append("no prefix reuse: beyond its trained length this model's KV depends on the prompt's length")
    if found.states and state_checkpoints.are_kept(ctx.store.snapshots) and getattr(cache, "shell", None) is not None:
        notes.append(f"tiers keep nothing of {ctx.adapter.name}: its states lie in an object of its family's own")
    if found.states and lease.branch > lease.matched:
        again = plural(lease.branch - lease.matched, "known token")
        notes.append(f"ran {again} again: no states were kept behind them")
    return notes


def _one_by_one(tokens: int, seconds: float, ctx: Context) -> list[str]:
    if tokens <= 1:
        return []
    why = "this model's layers ignore their states in longer passes"
    note = f"ran {plural(tokens, 'token')} one by one, in {seconds:.2f} s of prefill: {why}"
    ctx.tell(Fallback, why=note)
    return [note]
