"""Checks of the model alone: its pass through nbkv, a pass that goes on from a cache, keys moved, chunks as stored."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv.context import Context
from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.probing.rotary import alone, probed_positions
from nbkv.result import Chunk
from nbkv.session.verification.model_answers import Limits, ModelAnswers, answer_after, kv_error
from nbkv.session.verification.report import Checks
from nbkv.show.units import plural

_FARTHEST = 32_768  # tokens; keys are moved at most to here
_SINGLE = 4  # tokens looked at, each alone
_CHUNKS = 8  # of a session, the newest
_HEAD = 256  # tokens of a stored chunk and its sink


def check_model(
    ctx: Context, answers: ModelAnswers, ids: tuple[int, ...], limits: Limits, chunks: Sequence[Chunk]
) -> Checks:
    """Return the checks on prompt ``ids``, and of ``chunks`` as the session's store in ``ctx`` has them."""
    checks, adapter = Checks(), ctx.adapter
    cache = adapter.new_cache(len(ids) + 1)
    logits = adapter.prefill(ids, cache, work=answers.ctx.work())
    error = scaled_error(answer_after(ctx, ids, cache, logits), answers.to(ids).first)
    how = "through the layer walk" if adapter.walk else "plain forward: the layers cannot be walked"
    checks.error("full pass", error, limits.logits, how)
    _cut(ctx, answers, ids, limits, checks)
    _moved(adapter, ids, limits.logits, checks)
    for chunk in [each for each in chunks if each.model == ctx.model][-_CHUNKS:]:
        stored(ctx, answers, chunk.path(len(chunk.sink), adapter.capabilities.block)[:_HEAD], limits, checks)
    return checks


def stored(ctx: Context, answers: ModelAnswers, path: tuple[int, ...], limits: Limits, checks: Checks) -> None:
    """Check what ``ctx``'s store has of ``path`` against what the model makes of it, in every layer."""
    if not answers.has_kv or not ctx.store.holds(ctx.space(), path):
        return
    want = answers.kv_of(path[: ctx.adapter.capabilities.whole(len(path))])
    with ctx.store.reading(ctx.space(), path) as held:
        for at, kv in held:
            error = kv_error(kv, want[at : at + kv.length])
            checks.error("K/V in the store", error, limits.kv, "against the model's own, in every layer")


def _cut(ctx: Context, answers: ModelAnswers, ids: tuple[int, ...], limits: Limits, checks: Checks) -> None:
    """Check a pass that goes on from cached tokens: several at once where prefixes are reused, else token by token."""
    adapter = ctx.adapter
    cache, at = adapter.new_cache(), adapter.capabilities.whole(len(ids) // 2)
    several = adapter.capabilities.prefix or adapter.capabilities.block is not None
    stops = [len(ids)] if several else range(at + 1, len(ids) + 1)
    logits = adapter.prefill(ids[:at], cache)
    for stop in stops:
        logits = adapter.prefill(ids[:stop], cache, start=at)
        at = stop
    error = scaled_error(answer_after(ctx, ids, cache, logits), answers.to(ids).first)
    checks.error("from a cache", error, limits.logits, cache.kind)


def _moved(adapter: ModelAdapter, ids: tuple[int, ...], limit: float, checks: Checks) -> None:
    """Check keys moved to later positions against keys that were made there, of tokens alone in their context.

    In a longer context the model itself differs from place to place: it rounds its angles to its own precision.
    """
    if adapter.rope is None:
        checks.unchecked("relocation", f"refused: {adapter.capabilities.why_not('relocation')}")
        return
    positions = probed_positions(adapter, _FARTHEST)
    keys, _ = alone(adapter, adapter.tensor(ids[:_SINGLE]), positions)
    at_zero = [layer[0][:, :, None].expand(-1, -1, len(positions), -1) for layer in keys]
    moved = adapter.rope.keys(at_zero, torch.zeros_like(positions), positions)
    pairs = zip(moved, (layer.permute(1, 2, 0, 3) for layer in keys), strict=True)
    worst = max(scaled_error(got, want) for got, want in pairs if want.numel())
    checks.error("relocation", worst, limit, f"keys moved by up to {plural(int(positions[-1]), 'position')}")
