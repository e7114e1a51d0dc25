"""What the model itself answers to the prompts of the self-check, and how exactly that can be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.fidelity import scaled_error
from nbkv.kv import KV
from nbkv.models.caches.base import SequenceCache
from nbkv.models.diffusion.block import opened
from nbkv.models.probing.own_pass import own_pass
from nbkv.prompts.prompt import Prompt
from nbkv.session.verification.prompts import TAIL, text
from nbkv.strategy import Prefilled, Strategy

STEPS = 3  # decoded tokens that are forced
_FP32_LIMIT = 1e-4


@dataclass(frozen=True, eq=False)
class ModelAnswer:
    """The model's own logits: ``first`` ``[V]`` of the answer's first token, ``steps`` ``[k, V]`` behind ``tokens``.

    ``tokens`` ``[k]`` are forced; none where a model decodes in blocks. ``kv`` are the K/V of prompt and tokens, None
    where they do not lie by position.
    """

    first: torch.Tensor
    tokens: tuple[int, ...] = ()
    steps: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    kv: KV | None = None


@dataclass(frozen=True)
class Limits:
    """The largest scaled errors of logits, and of the K/V of a layer, that rounding explains."""

    logits: float
    kv: float


@dataclass(eq=False)
class ModelAnswers:
    """The model's own answers, each computed once for all strategies."""

    ctx: Context

    def __post_init__(self) -> None:
        """Compute nothing yet."""
        self._known: dict[tuple[int, ...], ModelAnswer] = {}
        self._placed: dict[tuple[tuple[int, ...], int], KV] = {}

    def to(self, ids: tuple[int, ...]) -> ModelAnswer:
        """Return the answer to the prompt ``ids``."""
        if ids not in self._known:
            self._known[ids] = self._answer(ids)
        return self._known[ids]

    @property
    def has_kv(self) -> bool:
        """Return whether K/V of this model lie by position."""
        return self.ctx.adapter.capabilities.prefix and self.ctx.adapter.capabilities.per_token

    def repeats(self, ids: tuple[int, ...], limit: float) -> bool:
        """Return whether the model gives the same logits twice; with random hashes, beyond some length, it does not."""
        return logits_error(self._answer(ids).first, self.to(ids).first) <= limit

    def kv_of(self, path: tuple[int, ...], first: int = 0) -> KV:
        """Return the K/V the model makes of ``path`` when its first token is at position ``first``."""
        key = (path, first)
        if key not in self._placed:
            self._placed[key] = own_pass(self.ctx.adapter, path, first=first).kv
        return self._placed[key]

    def _answer(self, ids: tuple[int, ...]) -> ModelAnswer:
        adapter, known = self.ctx.adapter, self.ctx.adapter.capabilities
        if not known.causal:
            whole = ids[: known.whole(len(ids))]
            kv = own_pass(adapter, whole).kv if self.has_kv and whole else None
            return ModelAnswer(self._plain(ids), kv=kv)
        steps = STEPS if len(ids) + STEPS <= min(known.stable_context, known.context) else 0
        if not self.has_kv and adapter.dtype != torch.float32:
            steps = 0  # a rounded state sends a token to another expert: no pass of ours tells how often
        tokens = text(steps, self.ctx, len(ids) % 7)
        if self.has_kv:
            own = own_pass(adapter, (*ids, *tokens))
            return ModelAnswer(own.logits[len(ids) - 1], tokens, own.logits[len(ids) :], own.kv)
        # rows of a longer pass are no reference: where nothing can be cached, they may depend on what follows
        passes = [adapter.plain(adapter.tensor((*ids, *tokens[:n])))[-1] for n in range(steps + 1)]
        return ModelAnswer(passes[0], tokens, torch.stack(passes)[1:])

    def _plain(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Return the logits ``[V]`` of the token after ``ids`` of a model that decodes in blocks or on canvases."""
        adapter, recipe = self.ctx.adapter, self.ctx.adapter.recipe
        if adapter.canvas is not None:
            return adapter.canvas.plain(adapter.tensor(ids), adapter.canvas.opened(len(ids)))[0]
        assert recipe is not None  # noqa: S101
        block = opened(ids, recipe, adapter.device)
        logits = adapter.plain(torch.cat([adapter.tensor(ids[: block.start]), block.ids]))
        return logits[len(ids) - recipe.shifted]


def limits(answers: ModelAnswers, ids: tuple[int, ...]) -> Limits:
    """Return what rounding explains: house rule 1's 1e-4, or twice what a pass over ``ids`` differs when it is split.

    The model's own pass, wherever it has one that can be split: errors of ours must not widen the limit.
    """
    adapter, want = answers.ctx.adapter, answers.to(ids)
    at, least = adapter.capabilities.whole(len(ids) - TAIL), 4 * float(torch.finfo(adapter.dtype).eps)
    if adapter.dtype == torch.float32:
        least = _FP32_LIMIT
    if want.kv is None:
        return Limits(_FP32_LIMIT if adapter.dtype == torch.float32 else max(2 * _split(answers, ids, at), least), 0.0)
    split = own_pass(adapter, ids[: adapter.capabilities.whole(len(ids))], split=at)
    noise = kv_error(split.kv, want.kv[: split.kv.length])
    if adapter.dtype == torch.float32:
        return Limits(_FP32_LIMIT, max(least, 2 * noise))
    causal = adapter.capabilities.causal
    error = scaled_error(split.logits[-1], want.first) if causal else _split(answers, ids, at)
    return Limits(max(2 * error, least), max(2 * noise, least))


def kv_error(got: KV, want: KV, rows: torch.Tensor | None = None, layers: Sequence[int] | None = None) -> float:
    """Return the largest difference of two K/V, over that layer's largest key or value; of some ``rows``, ``layers``.

    Unlike logits, which may all be large, a key that is small everywhere is looked at as closely as any other.
    """
    worst, which = 0.0, range(len(want.keys)) if layers is None else layers
    for mine, own in ((got.keys, want.keys), (got.values, want.values)):
        for layer in which:
            if layer >= len(own) or not own[layer].numel():
                continue
            have, expected = mine[layer].float(), own[layer].float().to(mine[layer].device)
            if have.shape != expected.shape:
                return float("inf")
            scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            if rows is not None:
                have, expected = (side[:, rows.to(side.device)] for side in (have, expected))
            if have.numel():
                error = float(((have - expected).abs().max()) / scale)
                worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def logits_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the scaled error of logits; infinite where they are not even of one shape."""
    return scaled_error(got, want) if got.shape == want.shape else float("inf")


def answer_after(ctx: Context, ids: tuple[int, ...], cache: SequenceCache, logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of the token after ``ids``, which ``cache`` holds and whose last row gave ``logits``."""
    prefilled = Prefilled(cache=cache, logits=logits, provenance=np.zeros(len(ids), dtype=np.uint8))
    return Strategy().opening(prefilled, Request(Prompt(ids), 1), ctx)


def _split(answers: ModelAnswers, ids: tuple[int, ...], at: int) -> float:
    """Return the error of the model's pass when ``nbkv`` splits it behind ``at`` tokens."""
    ctx = answers.ctx
    cache = ctx.adapter.new_cache()
    ctx.adapter.prefill(ids[:at], cache)
    logits = ctx.adapter.prefill(ids, cache, start=at)
    return scaled_error(answer_after(ctx, ids, cache, logits), answers.to(ids).first)
