"""LazyEviction: tokens that come back into use are waited for (Zhang et al., arXiv 2506.15969)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.errors import BadOption
from nbkv.families.evict.base import Evict
from nbkv.families.options import check, check_count
from nbkv.models.caches.evicting import EvictingLayer
from nbkv.scalars import is_number

_ABOVE = 2.0  # times uniform attention: what the paper's 5e-4 is in an answer of 4,096 tokens
_ONCE = 1e-5  # in the authors' code: what is added to MRI, so that a slot never used again has a ratio


@dataclass(kw_only=True, repr=False)
class LazyEviction(Evict):
    """Every ``window`` decoded tokens, keep the ``keep`` slots likeliest to be used again, by their past intervals.

    As in the authors' code. Only rows of the answer are observed, and time is counted in them: the prompt's slots
    begin at 0, where it ends, and stay until the first window is over. A slot is used when a row attends to it with
    ``alpha`` or more (the highest of the query heads that share a K/V head). TS is the step of its last use, or the
    step before its own; MRI the longest interval between two, 0 if there was none. At step t a slot's score is
    H1 + H2: H1 = 2 / (1 + exp(1 + r)) with r = (t - TS) / MRI, and H2 = 2 / (1 + exp(MRI - 1)), 0 where MRI is 0
    (with which H1 is 0 too, unless the slot is in use at t). The newest ``window`` slots always stay.

    ``keep`` is the paper's budget B: it is what an eviction leaves, so up to ``keep + window`` slots are held before
    the next one, and all of the prompt before the first. An answer of no more than ``window`` tokens evicts nothing.

    ``alpha`` and ``window`` depend on model and task. The authors take 5e-4 or 1e-4 at lengths of thousands, which in
    a short text is less than uniform attention, so that everything is always in use. None, the default, is twice
    uniform attention: 2 / T for a row that attends to T slots. The window is the 80th percentile of MRI, theirs 27 to
    363; ``nbkv.studies.eviction.calibrate`` finds it.
    """

    name: ClassVar[str] = "lazyeviction"
    paper: ClassVar[str] = "LazyEviction, arXiv 2506.15969"
    summary: ClassVar[str] = "drop, a window at a time, what is least likely to come back into use"
    whole: ClassVar[bool] = True
    observes_prompt: ClassVar[bool] = False

    window: int = 64
    alpha: float | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a ``window`` that is no count or not below ``keep``, and an ``alpha`` out of range.

        So does a ``context`` that ends before the question: nothing of a prompt is dropped before its answer.
        """
        super().__post_init__()
        check_count(self, "window", least=1)
        check(self, "alpha", _is_threshold, "an attention weight between 0 and 1, or None (twice uniform attention)")
        if isinstance(self.keep, int) and self.window >= self.keep:
            message = (
                f"window={self.window} is not accepted with keep={self.keep}: the newest window stays (window < keep)"
            )
            raise BadOption(message)
        if self.context not in {"none", "turns"}:
            message = f"context={self.context!r} is not accepted: lazyeviction drops nothing of a prompt (none, turns)"
            raise BadOption(message)

    @property
    def lag(self) -> int:
        """Return the observation window W."""
        return self.window

    def look(self, n: int) -> int:
        """Observe all query rows of the answer: each is one step of time."""
        return n

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """Update each slot's steps since its last use (t - TS) and its maximum recurrence interval (MRI)."""
        idle, longest = layer.mark("idle", torch.int32), layer.mark("longest", torch.int32)
        for row, highest in zip(rows, weights.amax(dim=1).unbind(dim=1), strict=True):
            there = layer.positions <= row
            alpha = _ABOVE / there.sum(dim=-1, keepdim=True) if self.alpha is None else self.alpha
            used = there & (highest >= alpha)
            idle += there
            torch.maximum(longest, idle * used, out=longest)
            idle.masked_fill_(used, 0)

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return H1 + H2, of equal ones more for the newer; infinite for the newest window, which is never evicted."""
        score = importance(layer.mark("idle", torch.int32), layer.mark("longest", torch.int32))
        newer = (layer.positions.double() + 1) / (at + 1)
        score = score * (1 + 1e-9 * newer) + 1e-30 * newer  # less than what scores in float32 can differ by
        return score.masked_fill(layer.positions >= at - min(self.window, room), float("inf"))


def importance(idle: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
    """Return H1 + H2, float64, of slots last used ``idle`` steps ago (t - TS), with longest interval ``longest``."""
    interval = longest.double()
    first = 2 * torch.sigmoid(-1 - idle / (interval + _ONCE))
    return first + torch.where(longest > 0, 2 * torch.sigmoid(1 - interval), 0.0)


def _is_threshold(value: object) -> bool:
    return value is None or (is_number(value) and 0 < value < 1)
