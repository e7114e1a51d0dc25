"""The cache transformers makes for a family, in the place where ours cannot be used."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, LinearAttentionLayer

from nbkv.models.caches.base import SequenceCache


class FamilyCache(SequenceCache, DynamicCache):
    """Transformers' own ``DynamicCache`` with the layers that a config asks for."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401  (each family has its own class)
        """Start empty."""
        DynamicCache.__init__(self, config=config)

    @property
    def kind(self) -> str:
        """Return what transformers calls it."""
        return DynamicCache.__name__

    @property
    def layer_kinds(self) -> list[str]:
        """Return what transformers calls its layers, each kind once, in order."""
        return list(dict.fromkeys(type(layer).__name__ for layer in self.layers))

    @property
    def has_states(self) -> bool:
        """Return whether any layer holds states of a recurrence."""
        return any(isinstance(layer, LinearAttentionLayer) for layer in self.layers)

    def held_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        sides = (getattr(layer, side, None) for layer in self.layers for side in ("keys", "values"))
        return sum(side.numel() * side.element_size() for side in sides if isinstance(side, torch.Tensor))
