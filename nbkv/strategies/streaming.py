"""StreamingLLM: attention sinks and the newest tokens (Xiao et al., arXiv 2309.17453, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.families.options import check_count
from nbkv.models.caches.evicting import EvictingLayer


@dataclass(kw_only=True, repr=False)
class Streaming(Evict):
    """Keep the first ``sinks`` tokens and the newest ones.

    Positions stay true here; the paper counts places in the cache instead.
    """

    name: ClassVar[str] = "streaming"
    paper: ClassVar[str] = "StreamingLLM, arXiv 2309.17453"
    summary: ClassVar[str] = "keep the first tokens (attention sinks) and the newest"

    sinks: int = 4

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``sinks`` is a count."""
        super().__post_init__()
        check_count(self, "sinks")

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return the positions; the attention sinks (as many as there is room for) score highest."""
        positions = layer.positions
        return positions.float().masked_fill(positions < min(self.sinks, room - 1), float(at))
