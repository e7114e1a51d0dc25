"""The states of recurrent layers at one position of a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

Named = dict[tuple[str, int], torch.Tensor]  # the states of one layer by kind and number


@dataclass(frozen=True, eq=False)
class LayerStates:
    """Every layer's states after ``at`` tokens, in memory of their own; ``shell`` is what a family has around them."""

    at: int
    layers: tuple[Named, ...]
    shell: Any = None

    @cached_property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(state.numel() * state.element_size() for layer in self.layers for state in layer.values())
