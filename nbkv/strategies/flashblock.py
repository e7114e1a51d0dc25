"""FlashBlock: attention to finished blocks is reused between the denoising passes over the present one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nbkv.errors import BadOption
from nbkv.families.attention.base import AttentionReuse, DenoisedAnswer
from nbkv.families.attention.context_attention import ContextAttention
from nbkv.families.attention.head_drift import CALIBRATION, HeadDrift, changing, known_heads, learn_heads
from nbkv.families.attention.speedup import PassTimes, ReuseSwitch
from nbkv.families.options import check, check_choice
from nbkv.registry import strategies as registry
from nbkv.scalars import is_number, is_whole

if TYPE_CHECKING:
    import torch

    from nbkv.context import Context
    from nbkv.models.attention.layer import Policy
    from nbkv.models.diffusion.block import Block
    from nbkv.models.work import Work
    from nbkv.strategy import Prefilled

_REVEALED = ("stale", "recompute")
_LSE = 0.05  # nats: the released code's bound on a head's mean change of lse


@dataclass(kw_only=True, repr=False)
class FlashBlock(AttentionReuse):
    """Reuse what the keys before a block gave its rows until ``tau`` tokens have been revealed since.

    The first pass over a block computes everything. A later one merges kept attention with fresh attention inside the
    block while fewer than ``tau`` tokens were revealed since everything was last computed, else it computes everything
    again; ``tau=1`` keeps nothing. Gives up exactness: kept attention belongs to rows as they were. It cannot gain
    where ``tau`` or more tokens are revealed in each pass. On DiffusionGemma, which reveals nothing for good, tokens of
    the canvas that have changed are counted: most do until it settles, and ``tau`` must be larger there.

    ``revealed``: rows whose token has just been revealed keep what their mask token had (``"stale"``, as in the
    paper's implementation over transformers), or have it computed again (``"recompute"``).

    ``threshold``: heads whose kept attention changes more between two passes than this mean cosine (0.85; 0.9 for
    quality) or by more than 0.05 nats of lse are computed in every pass. It is measured once on the model itself, in
    passes that reuse nothing, and remembered. None reuses all heads, as the paper does in language models.

    ``density``: of the keys before a block only this share is read in every pass, for each K/V head those that the
    block's first pass attends to most; what the rest gave is kept and merged (residual reuse), or left out with
    ``residual=False`` (plain sparse attention).
    """

    name: ClassVar[str] = "flashblock"
    paper: ClassVar[str] = "FlashBlock, arXiv 2602.05305"
    summary: ClassVar[str] = "keep attention to finished blocks between denoising passes (block diffusion)"

    contract_exempt: ClassVar[dict[str, str]] = {
        "test_one_first_chunk_behind_bos_equals_prefix": "it computes prompts as prefix does, answers approximately",
        "test_same_seed_same_output": "times decide which blocks reuse; min_gain=0 leaves nothing to them",
    }

    tau: int = 2
    revealed: str = "stale"
    threshold: float | None = 0.85
    density: float | None = None
    residual: bool = True
    min_gain: float = 1.05

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        check(self, "tau", lambda tau: is_whole(tau, 1), "a whole number of tokens >= 1")
        check_choice(self, "revealed", _REVEALED)
        check(self, "threshold", _is_cosine, "a cosine between -1 and 1, or None")
        check(self, "density", _is_density, "a share in (0, 1], or None")
        check(self, "residual", lambda residual: isinstance(residual, bool), "True or False")
        check(self, "min_gain", lambda gain: is_number(gain) and gain >= 0, "a speed-up >= 0 (0: whatever it costs)")
        if self.density is None and not self.residual:
            message = (
                "residual=False is not accepted without density: it leaves out what a sparse selection did not pick"
            )
            raise BadOption(message)

    def at_full_budget(self) -> FlashBlock:
        """Return this with a refresh in every pass."""
        return replace(self, tau=1)

    def begun(self, times: PassTimes, exempt: frozenset[int], ctx: Context) -> DenoisedAnswer:
        """Return an answer's state; heads are to be learned if a bound on them is set and they are not known."""
        answer = DenoisedAnswer(
            ContextAttention(exempt, self.density, self.residual), ReuseSwitch(times, self.min_gain)
        )
        if self.threshold is not None and (known := known_heads(ctx)) is not None:
            answer.heads = changing(known, ctx, self.threshold, _LSE)
        elif self.threshold is not None:
            answer.learning = True
            answer.context.staleness = ctx.scratch.setdefault(self.name, HeadDrift())
        return answer

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one pass; where it was the last that heads had to be learned from, remember them."""
        logits = super().denoise(block, prefilled, ctx, work)
        answer: DenoisedAnswer = prefilled.own
        if answer.learning and answer.context.staleness.compared >= CALIBRATION:
            assert self.threshold is not None  # noqa: S101
            found = learn_heads(ctx, answer.context.staleness)
            answer.heads, answer.learning = changing(found, ctx, self.threshold, _LSE), False
            answer.fresh = None
            computed, heads = (sum(map(len, answer.heads.values())), sum(ctx.adapter.capabilities.kv_heads))
            why = f"{computed} of {heads} K/V heads change too much between passes (measured now): no pass reuses them"
            prefilled.notes.append(why)
        return logits

    def reuses(self, block: Block, answer: DenoisedAnswer) -> bool:  # noqa: ARG002
        """Return whether fewer than ``tau`` tokens have changed since attention was last refreshed."""
        return answer.changed < self.tau

    def reusing(self, block: Block, answer: DenoisedAnswer) -> Policy:
        """Return the policy that merges what was kept, computed again for heads and rows as the options say."""
        rows = None
        if self.revealed == "recompute" and answer.last is not None:
            rows = (block.ids != answer.last).nonzero().flatten()
        return answer.context.reusing(rows, answer.heads)


def _is_cosine(value: object) -> bool:
    return value is None or (is_number(value) and -1 <= value <= 1)


def _is_density(value: object) -> bool:
    return value is None or (is_number(value) and 0 < value <= 1)


registry.alias("blockdiff", FlashBlock.name)
