"""A pass that ends where a layer has made its K and V."""

from __future__ import annotations

import torch

Sides = tuple[torch.Tensor, torch.Tensor]  # keys and values [1, H, n, D]


class Captured(Exception):
    """A layer made its K and V and went no further."""

    def __init__(self, sides: Sides) -> None:
        """Keep keys and values ``[1, H, n, D]``."""
        super().__init__("a layer's keys and values were caught")
        self._sides = [sides]

    def take(self) -> Sides:
        """Return them, once: what outlives this, such as a traceback, holds them no longer."""
        return self._sides.pop()
