"""Checkpoints of recurrent layers' states at positions of the radix tree (Marconi, arXiv 2411.19379).

A sequence of a model with recurrent layers can be continued only where there is a checkpoint: behind the last token of
a node. K/V of a node's tokens and a checkpoint behind them are counted apart, since a branch point may lose its
checkpoint while its K/V must stay for the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nbkv.stores.radix import Node


class StateSnapshot(Protocol):
    """States of all recurrent layers after ``at`` tokens; ``nbkv.models.caches.states.LayerStates`` is one."""

    @property
    def at(self) -> int:
        """Return the position: the number of tokens that the states have taken in."""

    @property
    def nbytes(self) -> int:
        """Return their bytes."""

    @property
    def layers(self) -> tuple[dict[tuple[str, int], torch.Tensor], ...]:
        """Return the tensors of each layer by kind and number."""

    @property
    def shell(self) -> object:
        """Return the object that they lie in, if a family has its own; None: they are all there is."""


@dataclass(frozen=True, eq=False)
class GoldenToken:
    """A ``token`` that was run behind a checkpoint as its sequence went on, and the logits ``[V]`` after it."""

    token: int
    logits: torch.Tensor


@dataclass(frozen=True, eq=False)
class StateCheckpoint:
    """States, and the FLOPs of the prefill from the sequence's first token that made them.

    With a ``golden`` token they can be proved elsewhere; only such are kept outside of this process.
    """

    states: StateSnapshot
    flops: float
    golden: GoldenToken | None = None


class StateCheckpoints:
    """The checkpoints of a store, at most one behind each node; ``nbytes`` are those of all."""

    def __init__(self) -> None:
        """Start without any."""
        self._at: dict[Node[Any], StateCheckpoint] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._at)

    def of(self, node: Node[Any]) -> StateCheckpoint | None:
        """Return the one behind ``node``, or None."""
        return self._at.get(node)

    def bytes_of(self, node: Node[Any]) -> int:
        """Return the bytes of the one behind ``node``; 0 if there is none."""
        found = self._at.get(node)
        return 0 if found is None else found.states.nbytes

    def put(self, node: Node[Any], checkpoint: StateCheckpoint) -> bool:
        """Keep ``checkpoint`` behind ``node`` unless there is one already; return whether it was kept."""
        if node in self._at:
            return False
        self._at[node] = checkpoint
        self.nbytes += checkpoint.states.nbytes
        return True

    def drop(self, node: Node[Any]) -> int:
        """Drop the one behind ``node``, if any; return the bytes that frees."""
        nbytes = self.bytes_of(node)
        self.nbytes -= nbytes
        self._at.pop(node, None)
        return nbytes

    def clear(self) -> None:
        """Drop all."""
        self._at.clear()
        self.nbytes = 0

    def deepest(self, path: Sequence[Node[Any]], least: int) -> int:
        """Return how many nodes of ``path`` lead to its last checkpoint behind at least ``least`` tokens; 0: none."""
        found = (count for count in range(len(path), 0, -1) if path[count - 1] in self._at)
        return next((count for count in found if path[count - 1].stop >= least), 0)

    def efficiency(self, node: Node[Any], kv_bytes: int) -> float:
        """Return the FLOPs that the checkpoint behind ``node`` saves per byte (Marconi, section 4.2); 0 without one.

        Saved is the prefill from the last checkpoint before it on. ``kv_bytes`` of K/V are evicted with the checkpoint.
        """
        own = self._at.get(node)
        if own is None:
            return 0.0
        before = (self._at[above] for above in node.path[-2::-1] if above in self._at)
        start = next((checkpoint.flops for checkpoint in before), 0.0)
        return (own.flops - start) / max(1, own.states.nbytes + kv_bytes)
