"""H2O: the tokens that received most attention so far, and the newest (Zhang et al., arXiv 2306.14048, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.families.options import check_share
from nbkv.models.caches.evicting import EvictingLayer


@dataclass(kw_only=True, repr=False)
class H2O(Evict):
    """Keep the newest tokens (``recent``, a share of the budget) and, for the rest, those that received most attention.

    Attention is summed over all rows so far, of prompt and answer, and over the query heads of a K/V head.
    """

    name: ClassVar[str] = "h2o"
    paper: ClassVar[str] = "H2O, arXiv 2306.14048"
    summary: ClassVar[str] = "keep the tokens that received most attention so far, and the newest"

    recent: float = 0.5

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``recent`` is a share."""
        super().__post_init__()
        check_share(self, "recent")

    def look(self, n: int) -> int:
        """Observe all query rows."""
        return n

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:  # noqa: ARG002
        """Accumulate the attention each slot receives, over rows and the query heads of a K/V head."""
        layer.mark("received").add_(weights.sum(dim=(1, 2)))

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return the accumulated attention; infinite for the newest tokens, which are never evicted."""
        newest = layer.positions >= at - int(self.recent * room)
        return layer.mark("received").masked_fill(newest, float("inf"))
