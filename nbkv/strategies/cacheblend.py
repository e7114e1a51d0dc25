"""CacheBlend: recompute the tokens whose K/V deviate most (Yao et al., arXiv 2405.16444, sections 4.2 and 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.errors import BadOption
from nbkv.families.blend import Blend, check_share
from nbkv.families.mix import Mix
from nbkv.selection import best, count

_SIDES = ("k", "v", "kv")


@dataclass(kw_only=True, repr=False)
class CacheBlend(Blend):
    """Run the first layers in full, compare with what was cached, go on with the rows that deviate most.

    ``check_layers``: where deviation is measured; rows are run in full up to the first of them, and thinned out at each
    (gradual filtering). ``deviation``: of keys, values or both. ``budget=0`` reuses chunks as they are, unchecked.
    """

    name: ClassVar[str] = "cacheblend"
    paper: ClassVar[str] = "CacheBlend, arXiv 2405.16444"
    summary: ClassVar[str] = "recompute the tokens whose K/V deviate most at the check layers"

    budget: float = 0.15
    check_layers: tuple[int, ...] = (1,)
    deviation: str = "kv"

    def __post_init__(self) -> None:
        """Refuse what is no budget, no layer, no side."""
        check_share("budget", self.budget)
        layers = self.check_layers = tuple(self.check_layers) if isinstance(self.check_layers, (list, tuple)) else ()
        if not layers or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in layers):
            message = "check_layers takes layer numbers from 0 on, such as (1,) or (1, 4, 8)"
            raise BadOption(message)
        if list(layers) != sorted(set(layers)):
            message = f"check_layers={layers!r} is not accepted: layers go upwards, each once"
            raise BadOption(message)
        if self.deviation not in _SIDES:
            message = f"deviation={self.deviation!r} is not accepted: one of {', '.join(_SIDES)}"
            raise BadOption(message)

    def select(self, mix: Mix) -> torch.Tensor:
        """Return the rows that deviate most at the last check layer of those that did at the ones before."""
        room = mix.room(self.budget)
        layers = [layer for layer in self.check_layers if layer < mix.n_layers - 1]
        if not room or not layers:
            return mix.reused[:room]
        rows = mix.reused
        mix.begin(rows)
        for index, layer in enumerate(layers):
            scores = mix.deviation(layer, self.deviation)
            left = len(layers) - 1 - index
            # each check but the last keeps a bit more than the budget: evenly spaced shares down to it
            keep = room + count(left / len(layers), min(room, len(rows) - room))
            kept = best(scores[rows], rows, keep)
            mix.narrow(kept)
            rows = kept
        return rows
