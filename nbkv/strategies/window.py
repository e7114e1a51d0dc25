"""Window: only the newest tokens are kept, the plainest bound there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.models.caches.evicting import EvictingLayer


@dataclass(kw_only=True, repr=False)
class Window(Evict):
    """Keep the newest ``keep`` tokens; a model's first tokens, its attention sinks, are lost with the others."""

    name: ClassVar[str] = "window"
    paper: ClassVar[str] = "window attention, arXiv 2309.17453, figure 1b"
    summary: ClassVar[str] = "keep the newest tokens only"

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:  # noqa: ARG002
        """Return the positions: the oldest tokens are evicted first."""
        return layer.positions.float()
