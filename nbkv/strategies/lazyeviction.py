"""LazyEviction: tokens that come back into use are waited for (Zhang et al., arXiv 2506.15969)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.families.options import check, check_count, is_number
from nbkv.models.caches.evicting import EvictingLayer

_PART = 4  # the window takes at most 1/4 of the budget
_NEWER = 1e-6  # breaks ties of scores: of equal slots the one used later stays


@dataclass(kw_only=True, repr=False)
class LazyEviction(Evict):
    """Every ``window`` tokens, drop the slots least likely to be used again, by the interval at which they were so far.

    A slot is used when a row attends to it with more than ``alpha`` (the highest of the query heads that share a K/V
    head). TS is when that was last, MRI the longest interval between two uses, 0 if it was used once. At time t a slot
    is worth H1 + H2, with H1 = 2 sigmoid(-(t - TS) / MRI) and H2 = 2 sigmoid(-MRI - 1) if MRI > 0; where MRI is 0, H2
    is 0 and H1 is 0 unless the slot is in use at this very moment. The newest ``window`` tokens stay.

    ``keep`` is the most that is held: the paper's budget B and the window W on top of it, so after an eviction
    ``keep - W`` slots are left. W is at most a quarter of what may be held. ``alpha`` and ``window`` depend on model
    and task: ``nbkv.studies.eviction.calibrate`` gives the window as the paper does, the 80th percentile of MRI.
    """

    name: ClassVar[str] = "lazyeviction"
    paper: ClassVar[str] = "LazyEviction, arXiv 2506.15969"
    summary: ClassVar[str] = "drop, a window at a time, what is least likely to come back into use"

    window: int = 64
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``window`` is a count and ``alpha`` an attention weight."""
        super().__post_init__()
        check_count(self, "window", least=1)
        check(self, "alpha", lambda alpha: is_number(alpha) and 0 < alpha < 1, "an attention weight between 0 and 1")

    def look(self, n: int) -> int:
        """Observe all query rows: each is one step of time."""
        return n

    def slots_at_a_time(self, limit: int) -> int:
        """Return the observation window W: evictions happen once every W tokens."""
        return min(self.window, max(1, limit // _PART))

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """Update each slot's last use (TS, stored relative to its position) and maximum recurrence interval (MRI)."""
        used = weights.amax(dim=1) > self.alpha
        positions = layer.positions
        since, longest = layer.mark("since", torch.int32), layer.mark("longest", torch.int32)
        before = (positions + since)[:, None]
        if len(rows) == 1:
            times = torch.where(used, rows.to(torch.int32)[:, None], before)
            gaps = times - before
        else:
            moments = torch.where(used, rows.to(torch.int32)[:, None], -1)
            times = torch.cat([before, moments], dim=1).cummax(dim=1).values
            gaps = torch.where(used, times[:, 1:] - times[:, :-1], 0)
        longest.copy_(torch.maximum(longest, gaps.amax(dim=1)))
        since.copy_(times[:, -1] - positions)

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return H1 + H2; infinite for the newest window, which is never evicted."""
        positions = layer.positions
        last = positions + layer.mark("since", torch.int32)
        score = importance(at - 1, last, layer.mark("longest", torch.int32))
        score += _NEWER * last / max(1, at)
        newest = min(self.window, max(1, room // (_PART - 1)))
        return score.masked_fill(positions >= at - newest, float("inf"))


def importance(now: int, last: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
    """Return the score H1 + H2 at time ``now`` of slots with last use ``last`` (TS) and interval ``longest`` (MRI)."""
    interval = longest.float()
    ratio = (now - last).float() / interval.clamp(min=1e-9)
    first = 2 * torch.sigmoid(-ratio)
    return first + torch.where(longest > 0, 2 * torch.sigmoid(-interval - 1), 0.0)
