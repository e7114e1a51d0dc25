"""From a request to its partial prefill: which K/V the store or the strategy has, and at which positions they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbkv.context import Context, Request
from nbkv.families.blend.layerwise import AheadPlacement, LayerwisePlacement, PlacedKV, SpanKV
from nbkv.families.blend.partial import PartialPrefill, PlacedChunk
from nbkv.families.prefix.base import encode
from nbkv.kv import Span
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work
from nbkv.result import Chunk

Spot = tuple[Chunk, int]  # a chunk and where in the prompt it begins


def assemble(
    request: Request,
    ctx: Context,
    supplied: Mapping[int, SpanKV] | None = None,
    *,
    upto: int | None = None,
    layerwise: bool = False,
) -> PartialPrefill:
    """Return the prompt with everything placed that the store has: an exact prefix, then chunks at their positions.

    The prefix is taken from the first ``upto`` tokens only (None: from all but what must run). Where ``supplied`` has
    K/V for the chunk that begins at a position, that is placed. A canonical chunk that has left the store, or was never
    encoded for its place in a diffusion block, is encoded again, and a note says so; of an answer used as a chunk only
    what the store still has is placed. With ``layerwise`` K/V from tiers still arrive while earlier layers run, which
    raise ``LoadLost`` where they do not.
    """
    ids, work = request.ids, ctx.work()
    notes: list[str] = []
    supplied = supplied or {}
    own = {start: each for start, each in supplied.items() if each.kv is not None}
    stored = [each for each in request.prompt.chunks if each[1] not in own]
    encoded = _encode_missing(stored, ctx.store.holds(ctx.space(), ids[:upto]), ctx, work, notes)
    cache = GrowingCache(len(ids) + request.max_new_tokens)
    assert ctx.adapter.rope is not None  # noqa: S101
    kind = LayerwisePlacement if ctx.adapter.device.type == "cpu" else AheadPlacement
    placement = kind(cache, ctx.adapter.rope, len(ids))
    try:
        known = ctx.store.holds(ctx.space(), ids[:upto])
        prefix = min(known, ctx.adapter.reusable(len(ids)))
        if prefix:
            reading = ctx.store.reading(ctx.space(), ids[:prefix], layerwise=layerwise)
            held = placement.views.enter_context(reading)
            for at, kv in held:
                placement.add(PlacedKV(kv, at, at))
            prefix = sum(kv.length for _, kv in held)  # an entry may turn out damaged when it is read
        placed, bases = list[PlacedChunk](), dict[int, int]()
        for chunk, start, stop in request.prompt.chunks:
            if stop <= prefix:
                continue
            one = own.get(start)
            if one is None:
                span = _stored((chunk, start), prefix, ctx, placement, layerwise=layerwise)
            else:
                span = _own(one, start, prefix, placement)
            if span.length:
                placed.append(PlacedChunk(chunk, span, encoded=one is None and (chunk, start) in encoded))
                if request.prompt.searched and chunk.lineage != "canonical":
                    bases[span.start] = span.start - start + (len(chunk.sink) if one is None else one.base)
        placement.begin()
    except BaseException:
        placement.close()
        raise
    return PartialPrefill(
        adapter=ctx.adapter,
        ids=ctx.adapter.tensor(ids),
        cache=cache,
        prefix=prefix,
        known=known,
        placed=placed,
        rows_work=work,
        select_work=ctx.work(),
        pieces=ctx.pieces,
        placement=placement,
        notes=notes,
        supplied=supplied,
        bases=bases,
    )


def _encode_missing(
    chunks: Sequence[tuple[Chunk, int, int]], known: int, ctx: Context, work: Work, notes: list[str]
) -> list[Spot]:
    encoded: list[Spot] = []
    whole = ctx.adapter.capabilities.whole
    for chunk, start, stop in chunks:
        path = chunk.path(start, ctx.adapter.capabilities.block)
        if chunk.lineage == "canonical" and stop > known and ctx.store.holds(ctx.space(), path) < whole(len(path)):
            left_out = encode(path, ctx, work)
            encoded.append((chunk, start))
            moved = len(path) > len(chunk.sink) + len(chunk)
            why = "stands at another place in its block than before" if moved else "had left the store"
            notes += [f"chunk {chunk.name!r} {why} and was encoded again", *left_out]
    return encoded


def _stored(spot: Spot, prefix: int, ctx: Context, placement: LayerwisePlacement, *, layerwise: bool) -> Span:
    """Place the store's K/V of a chunk where it begins; the first ``prefix`` rows hold K/V already."""
    chunk, start = spot
    block = ctx.adapter.capabilities.block or 1
    path = chunk.path(start, ctx.adapter.capabilities.block)
    behind = len(path) - len(chunk)
    first = -(-max(start, prefix) // block) * block  # a block that the chunk shares with what is before it must run
    stop = first
    reading = ctx.store.reading(ctx.space(), path, behind + first - start, layerwise=layerwise)
    for at, kv in placement.views.enter_context(reading):
        placement.add(PlacedKV(kv, at, start + at - behind))
        stop = start + at - behind + kv.length
    return Span(first, stop)


def _own(held: SpanKV, start: int, prefix: int, placement: LayerwisePlacement) -> Span:
    """Place a strategy's own K/V at positions from ``start`` on; the first ``prefix`` rows hold K/V already."""
    assert held.kv is not None  # noqa: S101
    skipped = max(0, prefix - start)
    placement.add(PlacedKV(held.kv[skipped:], held.base + skipped, start + skipped))
    return Span(start + skipped, start + held.kv.length)
