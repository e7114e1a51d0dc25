"""Prefix reuse: the longest stored prefix is continued in place, only the rest of the prompt is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nbkv.events import Reused
from nbkv.models.adapter import Work
from nbkv.models.cache import GrowingCache
from nbkv.result import Provenance
from nbkv.strategy import Context, Prefilled, Request, Strategy, timed

_ROOM = (
    512  # a new line has room for half of its first request again, at least this many tokens: chats then grow in place
)


@dataclass(kw_only=True, repr=False)
class Prefix(Strategy):
    """Continue the longest prefix that the store holds; the hook is ``reusable``."""

    family: ClassVar[str] = "prefix"
    needs: ClassVar[tuple[str, ...]] = ("prefix",)

    def reusable(self, ids: Sequence[int], ctx: Context) -> int:
        """Return how many first tokens of ``ids`` may be reused if known; what gives the next logits must run."""
        adapter = ctx.adapter
        return adapter.reusable(len(ids)) if len(ids) <= adapter.capabilities.stable_context else 0

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Take what is known of the prompt, run what is not."""
        clock, ids = timed(), request.ids
        lease = ctx.store.take(ctx.space(), ids, self.reusable(ids, ctx), GrowingCache)
        cache, matched = lease.line.buffer, lease.matched
        assert isinstance(cache, GrowingCache)  # noqa: S101
        needed = len(ids) + request.max_new_tokens
        cache.reserve(min(needed + max(_ROOM, needed // 2), max(needed, ctx.adapter.capabilities.context)))
        load_s = clock()
        if matched:
            ctx.tell(Reused, start=0, stop=matched, tier=ctx.store.name)
        rows = ctx.work()
        try:
            logits = ctx.adapter.prefill(ids, cache, start=matched, work=rows)
        except BaseException:
            ctx.store.discard(lease)
            raise
        provenance = np.full(len(ids), Provenance.FRESH, dtype=np.uint8)
        provenance[:matched] = Provenance.PREFIX
        if lease.known == len(ids):
            provenance[matched:] = Provenance.RECOMPUTED
        notes = [f"copied {lease.copied} tokens of KV to branch off a shared prefix"] if lease.copied else []
        if len(ids) > ctx.adapter.capabilities.stable_context:
            notes.append("no prefix reuse: beyond its trained length this model's KV depends on the prompt's length")
        return Prefilled(
            cache=cache, logits=logits, provenance=provenance, rows=rows, load_s=load_s, notes=notes, lease=lease
        )

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep the prompt's and the answer's KV where they are."""
        assert prefilled.lease is not None  # noqa: S101
        stable = ctx.adapter.capabilities.stable_context
        if request.keep and len(request.ids) <= stable:
            ctx.store.give(prefilled.lease, ids[: min(stable, prefilled.lease.line.buffer.length)])
        else:
            ctx.store.discard(prefilled.lease)


def encode(ids: Sequence[int], ctx: Context, work: Work | None = None) -> int:
    """Make sure that the KV of ``ids`` from the first token on are in the store; run and count what was missing."""
    lease = ctx.store.take(ctx.space(), ids, len(ids), GrowingCache)
    try:
        if lease.matched < len(ids):
            cache = lease.line.buffer
            assert isinstance(cache, GrowingCache)  # noqa: S101
            ctx.adapter.prefill(ids, cache, start=lease.matched, work=work or ctx.work())
    except BaseException:
        ctx.store.discard(lease)
        raise
    ctx.store.give(lease, ids)
    return len(ids) - lease.matched
