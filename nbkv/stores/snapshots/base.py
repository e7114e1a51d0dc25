"""What is asked of a store for snapshots, and what it gives: tensors by name, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from nbkv.kv import Space

LayerTensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class FoundSnapshot:
    """A snapshot of the first ``stop`` tokens of a prompt: its ``layers`` on the CPU, read from the tier ``tier``.

    ``error`` is how far it is from what it was made of, from 0 to 1. ``refuse`` drops it for good, for a reason.
    """

    stop: int
    layers: Sequence[LayerTensors]
    error: float
    tier: str
    refuse: Callable[[str], None]


class Snapshots(Protocol):
    """Snapshots of sequences, by their tokens, space and kind; ``nbkv.stores.snapshots.shelf`` keeps them in tiers."""

    def takes(self, kind: str) -> bool:
        """Return whether tiers take snapshots of this ``kind``."""

    def put(
        self, space: Space, kind: str, ids: Sequence[int], layers: Sequence[LayerTensors], error: float = 0.0
    ) -> bool:
        """Have a copy of ``layers``, of all of ``ids``, written; return False where there are too few tokens for it."""

    def find(self, space: Space, kind: str, ids: Sequence[int], least: int, most: int) -> FoundSnapshot | None:
        """Return the snapshot of the most first tokens of ``ids``, more than ``least`` and at most ``most`` of them."""
