"""Answers with attention kept between denoising passes, beside those without: accuracy, distance and drift on reports.

Reuse is forced everywhere (``min_gain=0``): this is about what it does to answers, not about whether it pays.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.session.session import Session
from nbkv.strategies.flashblock import FlashBlock
from nbkv.strategy import parse
from nbkv.studies.statistics import interval
from nbkv.tasks.evaluate import is_correct

if TYPE_CHECKING:
    import torch

    from nbkv.context import Context
    from nbkv.models.diffusion.block import Block
    from nbkv.models.work import Work
    from nbkv.strategy import Prefilled
    from nbkv.tasks.items import Item

FULL = "full"
TAUS = (
    "flashblock(tau=2, min_gain=0)",
    "flashblock(tau=2, threshold=None, min_gain=0)",
    "flashblock(tau=2, threshold=None, revealed='recompute', min_gain=0)",
    "flashblock(tau=3, threshold=None, min_gain=0)",
)
DENSITIES = (0.2, 0.3, 0.4)
FOLLOWED = 4
"""Questions of which each pass is compared with the exact one."""
_ROOM = 24  # tokens that an answer may be longer than the right one
_NEVER = 64  # tokens: no block has so many, so nothing is refreshed inside of one
_SAID = ("block", "unmask", "tokens_per_forward", "reuse_rate", "effective_reuse", "drift_cosine", "drift_lse")
_SAID_TOO = ("attention_s", "computed_heads")


def sparse(densities: Sequence[float] = DENSITIES, tau: int = _NEVER) -> list[str]:
    """Return sparse attention with and without the rest that it leaves out, at each density."""
    fixed = f"tau={tau}, threshold=None, min_gain=0"
    return [f"flashblock({fixed}, density={share}, residual={kept})" for share in densities for kept in (True, False)]


@dataclass(kw_only=True, repr=False)
class Shadow(FlashBlock):
    """Runs each pass twice and goes on from the exact one: what reuse would have said, pass by pass.

    ``kl`` are KL(exact || reuse) in nats and ``top1`` the agreement of the best tokens, means over masked rows.
    """

    def __post_init__(self) -> None:
        """Start without a pass."""
        super().__post_init__()
        self.kl: list[float] = []
        self.top1: list[float] = []

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Compare one pass, and return the exact one's logits."""
        said = super().denoise(block, prefilled, ctx, work)
        exact = ctx.adapter.denoise(block.ids, prefilled.cache, start=block.start)
        mine, full = (logits[block.masked].float().log_softmax(-1) for logits in (said, exact))
        self.kl.append(max(0.0, float((full.exp() * (full - mine)).sum(-1).mean())))
        self.top1.append(float((full.argmax(-1) == mine.argmax(-1)).float().mean()))
        return exact


def measure(
    session: Session,
    items: Sequence[Item],
    specs: Sequence[str],
    unmask: str | None = None,
    followed: int = FOLLOWED,
) -> list[dict[str, Any]]:
    """Return one dict a strategy: its answers to ``items``, and its passes along full's way on the first ``followed``.

    ``right`` is the list of 0 and 1 in the order of ``items``; ``difference`` is that of the accuracy to the first
    strategy's, with its 95 % interval. ``kl`` (nats) and ``top1`` are means over all passes, the exact ones included.
    ``…_low`` and ``…_high`` are the ends of the 95 % intervals of what varies from answer to answer.
    """
    answers = {
        spec: [answer(session, item, spec, unmask, follow=at < followed) for at, item in enumerate(items)]
        for spec in specs
    }
    return compared(answers)


def answer(session: Session, item: Item, spec: str, unmask: str | None, *, follow: bool) -> dict[str, Any]:
    """Return the figures of one answer as plain data, all that ``compared`` makes a table of.

    ``follow``: also those of its passes along full's way.
    """
    result = _ask(session, item, spec, unmask)
    shadows = _followed(session, [item], spec, unmask) if follow else []
    return {
        "right": int(is_correct(result.text, item.answers)),
        "tokens": len(result.token_ids),
        "seconds": result.timing.total_s,
        "said": {name: result.decoding.get(name) for name in (*_SAID, *_SAID_TOO)},
        "kl": [kl for shadow in shadows for kl in shadow.kl],
        "top1": [same for shadow in shadows for same in shadow.top1],
    }


def compared(answers: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of ``measure`` from each strategy's answers to the same questions, full's first."""
    rows = [_row(spec, given) for spec, given in answers.items()]
    first = np.array(rows[0]["right"], dtype=np.float64)
    for row in rows:
        gaps = np.array(row["right"], dtype=np.float64) - first
        low, high = interval(gaps)
        row |= {"difference": float(gaps.mean()), "low": low, "high": high}
    return rows


def _row(spec: str, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    said, right = [one["said"] for one in answers], [one["right"] for one in answers]
    kls, same = ([value for one in answers for value in one[name]] for name in ("kl", "top1"))
    spread = {
        "accuracy": right,
        "tokens_per_second": [one["tokens"] / one["seconds"] for one in answers],
        "kl": [statistics.fmean(one["kl"]) for one in answers if one["kl"]] or [0.0],
        **{name: [one[name] for one in said] for name in ("drift_cosine", "attention_s")},
    }
    return {
        "strategy": spec,
        "block": said[0]["block"],
        "unmask": said[0]["unmask"],
        "right": right,
        "accuracy": statistics.fmean(right),
        "tokens_per_forward": statistics.fmean(one["tokens_per_forward"] for one in said),
        "tokens_per_second": sum(one["tokens"] for one in answers) / sum(one["seconds"] for one in answers),
        "kl": statistics.fmean(kls) if kls else 0.0,
        "top1": statistics.fmean(same) if same else 1.0,
        **{name: _mean(one[name] for one in said) for name in _SAID[3:]},
        "attention_s": _mean(one["attention_s"] for one in said),
        "computed_heads": said[-1]["computed_heads"] or 0,
        **{end: value for name, values in spread.items() for end, value in _ends(name, values).items()},
    }


def _ask(session: Session, item: Item, strategy: Any, unmask: str | None) -> Any:  # noqa: ANN401  (figures)
    room = len(session.tokenizer(" ".join(item.answers)).input_ids) + _ROOM
    return session.generate([*item.chunks, item.question], strategy=strategy, max_new_tokens=room, unmask=unmask)


def _followed(session: Session, items: Sequence[Item], spec: str, unmask: str | None) -> list[Shadow]:
    strategy = parse(spec)
    if not isinstance(strategy, FlashBlock):
        return []
    shadows = [Shadow(**vars(strategy)) for _ in items]
    for item, shadow in zip(items, shadows, strict=True):
        _ask(session, item, shadow, unmask)
    return shadows


def _ends(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    found = [value for value in values if value is not None]
    low, high = interval(np.array(found, dtype=np.float64)) if found else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _mean(values: Any) -> float | None:  # noqa: ANN401  (figures)
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None
