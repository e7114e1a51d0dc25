"""ProphetKV: recompute the tokens the question attends to (arXiv 2602.02579, stages I to III)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_count, check_share
from nbkv.selection import best, count, first, windows


@dataclass(kw_only=True, repr=False)
class Prophet(Blend):
    """Let the question run over the cached chunks at their global positions, average its attention, take the best.

    The mean is over question tokens, heads and layers. ``window`` groups the picked rows: a window of that many rows is
    taken whole if ``hits`` of them were picked, and dropped otherwise (0: no grouping). ``first_k`` rows of each chunk
    that does not begin the prompt are taken before all others, inside the budget, which they do not raise.
    """

    name: ClassVar[str] = "prophet"
    paper: ClassVar[str] = "ProphetKV, arXiv 2602.02579; windows: CacheClip, arXiv 2510.10129"
    summary: ClassVar[str] = "recompute the tokens that the question attends to"
    needs: ClassVar[tuple[str, ...]] = (*Blend.needs, "attention")

    budget: float = 0.2
    window: int = 0
    hits: int = 5
    first_k: int = 0

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        check_share(self, "budget")
        check_count(self, "window", "hits", "first_k")

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows with the highest mean attention of the question."""
        room = partial.room(self.budget)
        if not room:
            return partial.reused[:0]
        scores = torch.zeros(partial.length, device=partial.ids.device)
        partial.scout(lambda seen: scores.add_(seen.weights.sum(dim=(0, 1)).to(scores.device)))
        heads = first([span for _, span, _ in partial.placed if span.start], self.first_k)[:room]
        scores[heads] = float("inf")
        picked = best(scores[partial.reused], partial.reused, room)
        if not self.window:
            return picked
        grouped = windows(picked, partial.reused, self.window, self.hits)
        # windows may hold more than the budget: then the best rows of them
        return best(scores[grouped], grouped, min(room, count(1.0, len(grouped)))) if len(grouped) else picked
