"""SnapKV: the prompt's last rows vote for what of it is kept (Li et al., arXiv 2404.14469, sections 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.evict.base import Evict
from nbkv.families.options import check, check_count
from nbkv.models.caches.evicting import EvictingLayer

_AT_ONCE = 256  # rows that vote must be shown together
_VOTED = -10.0  # offset of votes: below 0, the value of slots without a vote


@dataclass(kw_only=True, repr=False)
class SnapKV(Evict):
    """Keep the prompt tokens that its last ``window`` rows attend to most, max-pooled over ``kernel`` neighbours.

    The window is kept as it is. The paper leaves the answer alone; here, where it has no more room, the prompt tokens
    with the fewest votes go first, then the oldest others. The prompt is run at once: the peak is its whole K/V.
    """

    name: ClassVar[str] = "snapkv"
    paper: ClassVar[str] = "SnapKV, arXiv 2404.14469"
    summary: ClassVar[str] = "keep what the prompt's last rows attend to, with its neighbours"
    whole: ClassVar[bool] = True
    observes_decoding: ClassVar[bool] = False

    window: int = 32
    kernel: int = 7

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a window or kernel that is no count, an even kernel, or a window too large."""
        super().__post_init__()
        check_count(self, "window", "kernel", least=1)
        check(self, "kernel", lambda kernel: kernel % 2 == 1, "an odd number, as many neighbours on each side")
        check(self, "window", lambda window: window <= _AT_ONCE, f"at most {_AT_ONCE} rows")

    def look(self, n: int) -> int:
        """Observe the rows of the observation window."""
        return min(n, self.window)

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """Store the votes: attention summed over the window's rows, max-pooled over neighbouring positions."""
        received = weights.sum(dim=(1, 2))
        order = layer.positions.long().argsort(dim=-1)
        sorted_ = received.gather(1, order)
        pooled = torch.nn.functional.max_pool1d(sorted_, self.kernel, stride=1, padding=self.kernel // 2)
        votes = layer.mark("votes").scatter_(1, order, pooled / received.sum().clamp(min=1e-9) + _VOTED)
        votes.masked_fill_(layer.positions >= int(rows[0]), 0.0)

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:  # noqa: ARG002
        """Return the votes; slots without one (window, answer) score above all others, by position."""
        votes = layer.mark("votes")
        return torch.where(votes < 0, votes, layer.positions.float())
