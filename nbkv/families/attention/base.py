"""Attention outputs kept from one denoising pass over a block to the next, where that is faster.

A strategy of this family says which passes may reuse the attention of an earlier one to the keys before the block.
Prompts are prefilled as under ``prefix``. A finished block is committed by a pass of the model's own over its clean
tokens, which reads exact K/V only: the cache holds the exact K/V of the decoded tokens, whatever the denoising passes
computed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from nbkv.events import Fallback
from nbkv.families.attention.context_attention import ContextAttention
from nbkv.families.attention.speedup import OFF, ON, PLAIN, PLAIN_FIRST, REFRESHED, REUSED, PassTimes, ReuseSwitch
from nbkv.families.prefix.base import Prefix
from nbkv.models.attention.intercept import AttentionTimer, computed_by
from nbkv.models.attention.layer import Policy
from nbkv.show.units import plural
from nbkv.timing import settle, timed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbkv.context import Context, Request
    from nbkv.models.adapter import ModelAdapter
    from nbkv.models.diffusion.block import Block
    from nbkv.models.work import Work
    from nbkv.strategy import Prefilled

_FAITHFUL = 0.9  # mean cosine below which a note is due; the paper has 0.95 and more


@dataclass(eq=False)
class DenoisedAnswer:
    """The state of one answer: the kept attention, whether the present block reuses it, and counts of passes so far.

    ``context`` keeps attention to the keys before the block, ``switch`` decides whether reuse pays. ``changed`` tokens
    of the block differ from ``fresh``, its ids when attention was last refreshed; ``last`` were its ids in the pass
    before. ``heads`` are the K/V heads of each layer that are always recomputed; while they are being measured
    (``learning``) nothing is reused. ``seconds`` is the time of attention in the passes that are not plain. ``asked``
    is the attention to the context that all passes need: rows x K/V heads of all layers.
    """

    context: ContextAttention
    switch: ReuseSwitch
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    learning: bool = False
    mode: str = ON
    changed: int = 0
    fresh: torch.Tensor | None = None
    last: torch.Tensor | None = None
    passes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    asked: int = 0
    blocks: int = 0
    off: int = 0
    why: str = ""


@dataclass(kw_only=True, repr=False)
class AttentionReuse(Prefix):
    """Reuse attention to the keys before a block between passes; hooks: ``begun``, ``reuses`` and ``reusing``."""

    family: ClassVar[str] = "attention"
    exact: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("blockwise", "prefix", "attention")

    @abstractmethod
    def begun(self, times: PassTimes, exempt: frozenset[int], ctx: Context) -> DenoisedAnswer:
        """Return the state of an answer before its first denoising pass.

        ``times`` is what is known of earlier answers' passes; ``exempt`` layers are to keep the model's own attention.
        """

    @abstractmethod
    def reuses(self, block: Block, answer: DenoisedAnswer) -> bool:
        """Return whether this pass may reuse what an earlier pass over ``block`` kept."""

    @abstractmethod
    def reusing(self, block: Block, answer: DenoisedAnswer) -> Policy:
        """Return the attention policy of a pass that reuses."""

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one denoising pass, plain, refreshed or reused, and time it; return the logits ``[B, V]``."""
        if not isinstance(prefilled.own, DenoisedAnswer):
            times = PassTimes.of(ctx.verdicts.get(self._times(ctx)))
            prefilled.own = self.begun(times, _windowed(ctx.adapter), ctx)
        answer: DenoisedAnswer = prefilled.own
        if not block.step:
            self._begin(block, answer, ctx)
        kind = self._kind(block, answer)
        policy = answer.context.refresh if kind == REFRESHED else self.reusing(block, answer)
        settle(ctx.adapter)
        clock = timed()
        with nullcontext(AttentionTimer()) if kind == PLAIN else computed_by(ctx.adapter.config, policy) as meter:
            logits = super().denoise(block, prefilled, ctx, work)
        settle(ctx.adapter)
        answer.switch.times.add(kind, block.start, clock())
        answer.seconds += meter.seconds
        answer.passes[kind] += 1
        answer.asked += len(block.ids) * sum(ctx.adapter.capabilities.kv_heads)
        answer.last = block.ids
        return logits

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep the exact KV of prompt and answer, remember the times, and say what was found."""
        answer = prefilled.own
        super().commit(prefilled, ids, request, ctx)
        if not isinstance(answer, DenoisedAnswer):  # not a single pass was run
            return
        ctx.verdicts.hold(self._times(ctx), answer.switch.times.to_dict())
        prefilled.figures |= _figures(answer, ctx)
        if answer.passes[REUSED]:
            passes, share = prefilled.figures["reuse_rate"], prefilled.figures["effective_reuse"]
            prefilled.notes.append(
                f"{100 * share:.0f} % of the attention to finished blocks reused, in {100 * passes:.0f} % of the passes"
            )
        if answer.passes[REUSED] and not answer.heads and (answer.context.staleness.cosine or 1.0) < _FAITHFUL:
            was = f"kept attention had changed to a cosine of {answer.context.staleness.cosine:.2f} when computed again"
            prefilled.notes.append(f"{was}: other answers than without it are likely")
        if answer.off:
            on = answer.blocks - answer.off
            prefilled.notes.append(f"attention was reused in {on} of {plural(answer.blocks, 'block')}: {answer.why}")

    def _begin(self, block: Block, answer: DenoisedAnswer, ctx: Context) -> None:
        answer.context.forget()
        answer.blocks += 1
        answer.mode = ON if answer.learning else answer.switch.begin(block.start)
        if answer.mode == OFF:
            answer.off += 1
            if not answer.why:
                answer.why = _reason(answer.switch, block.start)
                ctx.tell(Fallback, why=f"{self.name} is off: {answer.why}")

    def _kind(self, block: Block, answer: DenoisedAnswer) -> str:
        """Return the kind of this pass; the rule is asked also where it is not followed, to know what it would do."""
        if answer.learning:
            return REFRESHED
        answer.changed = len(block.ids)
        if block.step and answer.fresh is not None:
            answer.changed = int(torch.ne(block.ids, answer.fresh).sum())
            answer.changed = max(answer.changed, int(block.conditioning is not None))  # what it is told changes too
        reuse = bool(block.step) and answer.fresh is not None and self.reuses(block, answer)
        answer.switch.asked(block.start, reuse=reuse)
        if not reuse:
            answer.fresh = block.ids
        if answer.mode == OFF:  # what the rule would do goes on being counted
            return PLAIN
        if answer.mode == PLAIN_FIRST and not block.step:
            return PLAIN
        if reuse and not answer.context.empty:
            return REUSED
        answer.fresh = block.ids
        return REFRESHED

    def _times(self, ctx: Context) -> str:
        return f"passes@{self.spec}@{ctx.adapter.capabilities.blockwise}@{ctx.model}"


def _figures(answer: DenoisedAnswer, ctx: Context) -> dict[str, Any]:
    """Return what ``result.decoding`` says about the passes of ``answer``."""
    total, found = answer.passes.total(), answer.context.staleness
    return {
        "passes": dict(answer.passes),
        "reuse_rate": answer.passes[REUSED] / total if total else 0.0,
        "effective_reuse": answer.context.reused / answer.asked if answer.asked else 0.0,
        "off_blocks": answer.off,
        "computed_heads": sum(map(len, answer.heads.values())),
        "drift_cosine": found.cosine,
        "drift_lse": found.lse,
        "attention_s": answer.seconds if ctx.adapter.device.type == "cpu" else None,
    }


def _windowed(adapter: ModelAdapter) -> frozenset[int]:
    """Return the layers with a window: the keys before a block are few there, and not worth keeping."""
    known = adapter.capabilities
    kinds = zip(known.layer_types, known.windows, strict=True)
    return frozenset(i for i, (kind, window) in enumerate(kinds) if window is not None or kind != "full_attention")


def _reason(switch: ReuseSwitch, at: int) -> str:
    share = switch.share(at)
    if not share:
        return "so many tokens are revealed in each pass that none could reuse"
    reused, refreshed, without = (switch.times.seconds(kind, at) * 1000 for kind in (REUSED, REFRESHED, PLAIN))
    took = f"{without:.2f} ms without, {refreshed:.2f} refreshed, {reused:.2f} reused"
    return f"after {plural(at, 'token')} a pass takes {took}, and {100 * share:.0f} % could reuse"
