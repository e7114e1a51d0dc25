"""CacheBlend's loading controller: which chunks are worth loading, and how many rows are recomputed meanwhile.

Arriving of ``L`` tokens takes ``T_load = L x bytes of a token / rate``, recomputing a share ``r`` of them ``T_recompute
= r x Prefill(L)`` (Yao et al., arXiv 2405.16444, section 5.1). Where both take equally long, recomputing costs no time
that loading does not take anyway, and no more is recomputed. That share may be above the budget asked for or below it,
never below the least that quality needs. Where it would be all rows or more, computing is the faster device: such a
chunk is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nbkv.context import Context, Request
from nbkv.families.routing.cost_model import costs
from nbkv.result import Chunk
from nbkv.show.units import plural
from nbkv.strategy import Declined

Spot = tuple[Chunk, int, int]


@dataclass(frozen=True)
class ChunkLoading:
    """Chunk ``spot`` of a prompt, of which ``rows`` would be placed: ``seconds`` until they are there, ``where`` from.

    None: the tier was never read before, nobody knows.
    """

    spot: Spot
    rows: int
    seconds: float | None
    where: str = ""


@dataclass(frozen=True)
class LoadingPlan:
    """The ``request`` without the chunks that are computed instead of loaded, the ``budget``, and ``notes`` on both.

    ``load_s`` and ``row_s`` are the seconds of loading in all, and of recomputing one row. ``declined``: chunks that
    are not loaded, and why.
    """

    request: Request
    budget: float
    load_s: float
    row_s: float
    notes: tuple[str, ...]
    declined: Declined | None = None


@dataclass(frozen=True)
class LoadingController:
    """Plans prompts of ``ctx``'s model. ``rate``: bytes per second at which all chunks arrive; None: as tiers do.

    ``least`` is the smallest budget (the paper's r*).
    """

    ctx: Context
    rate: float | None
    least: float

    def plan(self, request: Request, asked: float) -> LoadingPlan:
        """Return what of ``request``'s chunks to load and how much to recompute, of a budget of ``asked``."""
        row_s = max(costs(self.ctx).rows(1, len(request.ids)), 1e-12)
        every = list(self._loadings(request))
        slow = [one for one in every if one.seconds is not None and one.seconds > one.rows * row_s]
        load = [one for one in every if one not in slow]
        kept = [spot for spot in request.prompt.chunks if spot not in [one.spot for one in slow]]
        notes: list[str] = []
        declined = None
        if slow:
            notes, declined = self._computed(slow, row_s)
        known = [one.seconds for one in load if one.seconds is not None]
        budget = asked
        if load and len(known) == len(load):
            share = min(1.0, sum(known) / (row_s * sum(one.rows for one in load)))
            budget = max(min(asked, self.least), share)
            from_where = " and ".join(dict.fromkeys(one.where for one in load))
            notes.append(f"loading {from_where} leaves time to recompute {share:.2g} of the rows: budget {budget:.2g}")
        elif load:
            where = next(one.where for one in load if one.seconds is None)
            notes.append(f"how fast {where} is was not known before this request: budget {budget:.2g}")
        prompt = replace(request.prompt, chunks=tuple(kept))
        return LoadingPlan(replace(request, prompt=prompt), budget, sum(known), row_s, tuple(notes), declined)

    def _loadings(self, request: Request) -> Iterator[ChunkLoading]:
        """Yield the chunks behind what is an exact prefix anyway; of one that no tier has to bring, no seconds."""
        ctx, block = self.ctx, self.ctx.adapter.capabilities.block
        prefix = min(ctx.store.holds(ctx.space(), request.ids), ctx.adapter.reusable(len(request.ids)))
        for chunk, start, stop in request.prompt.chunks:
            rows = stop - max(start, prefix)
            if rows <= 0:
                continue
            if self.rate is not None:
                over, seconds = f"over {self.rate:.3g} bytes/s", rows * ctx.adapter.token_bytes / self.rate
                yield ChunkLoading((chunk, start, stop), rows, seconds, over)
                continue
            path = chunk.path(start, block)
            loads = ctx.store.loads(ctx.space(), path, len(path) - rows)
            taken = [load.tokens * ctx.adapter.token_bytes / load.rate for load in loads if load.rate]
            where = " and ".join(dict.fromkeys(f"from {load.tier}" for load in loads)) or f"from {ctx.store.name}"
            yield ChunkLoading((chunk, start, stop), rows, sum(taken) if len(taken) == len(loads) else None, where)

    def _computed(self, slow: list[ChunkLoading], row_s: float) -> tuple[list[str], Declined]:
        """Return the note on chunks that are computed instead of loaded, and the same for who asks why they missed."""
        rows, load_s = sum(one.rows for one in slow), sum(one.seconds or 0.0 for one in slow)
        where = " and ".join(dict.fromkeys(one.where for one in slow))
        why = f"loading {where} takes longer than computing ({load_s:.2g} s, {rows * row_s:.2g} s)"
        note = f"{plural(len(slow), 'chunk')} of {plural(rows, 'token')} computed, not loaded: {why}"
        return [note], Declined(why, rows * row_s - load_s)
