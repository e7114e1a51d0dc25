"""TOVA: the token that the newest one attends to least goes (Oren et al., arXiv 2401.06104, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.models.caches.evicting import EvictingLayer


@dataclass(kw_only=True, repr=False)
class Tova(Evict):
    """Keep the tokens that the last row attends to most, averaged over a layer's heads.

    With ``per="head"`` each K/V head decides for itself.
    """

    name: ClassVar[str] = "tova"
    paper: ClassVar[str] = "TOVA, arXiv 2401.06104"
    summary: ClassVar[str] = "drop what the newest token attends to least"

    per: str = "layer"

    def look(self, n: int) -> int:
        """Observe the last query row."""
        return min(n, 1)

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:  # noqa: ARG002
        """Store the last row's attention weights, averaged over the query heads of a K/V head."""
        layer.mark("last").copy_(weights[:, :, -1].mean(dim=1))

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:  # noqa: ARG002
        """Return the last row's attention weights."""
        return layer.mark("last").clone()
