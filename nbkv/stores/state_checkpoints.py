"""States of recurrent layers hung at positions of the tree, and what each of them is worth (Marconi).

A sequence can be continued only where a checkpoint hangs: behind the last token of a node. K/V of a node's tokens and a
checkpoint behind them are counted apart, since a branch point may lose its checkpoint while its K/V must stay for the
branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nbkv.stores.radix import Node


class StateSnapshot(Protocol):
    """States after ``at`` tokens; ``nbkv.models.caches.states.LayerStates`` is one."""

    @property
    def at(self) -> int:
        """Return after how many tokens they stand."""

    @property
    def nbytes(self) -> int:
        """Return their bytes."""


@dataclass(frozen=True, eq=False)
class StateCheckpoint:
    """States, and the FLOPs of the prefill that made them, from the first token on."""

    states: StateSnapshot
    flops: float


@dataclass(frozen=True)
class EvictionCandidate:
    """Something that may be evicted: when it was used last, and the FLOPs it saves for each byte."""

    used: int
    efficiency: float


class StateCheckpoints:
    """Which nodes have one."""

    def __init__(self) -> None:
        """Know none."""
        self._at: dict[Node[Any], StateCheckpoint] = {}
        self.nbytes = 0  # of all of them

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
        """Hang ``checkpoint`` behind ``node`` if none hangs there yet, and return whether it was so."""
        if node in self._at:
            return False
        self._at[node] = checkpoint
        self.nbytes += checkpoint.states.nbytes
        return True

    def drop(self, node: Node[Any]) -> None:
        """Forget the one behind ``node``, if any."""
        self.nbytes -= self.bytes_of(node)
        self._at.pop(node, None)

    def clear(self) -> None:
        """Forget all."""
        self._at.clear()
        self.nbytes = 0

    def deepest(self, path: Sequence[Node[Any]], least: int) -> int:
        """Return how many nodes of ``path`` lead to its last checkpoint behind at least ``least`` tokens; 0: none."""
        found = (count for count in range(len(path), 0, -1) if path[count - 1] in self._at)
        return next((count for count in found if path[count - 1].stop >= least), 0)

    def may_go(self, node: Node[Any]) -> bool:
        """Return whether ``node`` may be evicted: a leaf, or states on the way to one other node; no branch point."""
        return not node.leases and (not node.children or (len(node.children) == 1 and node in self._at))

    def candidate(self, node: Node[Any], kv_bytes: int) -> EvictionCandidate:
        """Return what evicting ``node`` would lose; ``kv_bytes`` are those of its tokens, which go with a leaf only."""
        return EvictionCandidate(node.used, self._efficiency(node, 0 if node.children else kv_bytes))

    def _efficiency(self, node: Node[Any], kv_bytes: int) -> float:
        """Return the FLOPs that the checkpoint behind ``node`` saves for each byte that goes with it.

        Saved is what the prefill from the last checkpoint before it costs (Marconi, arXiv 2411.19379, section 4.2).
        """
        mine = self._at.get(node)
        if mine is None:
            return 0.0
        before = (self._at[above] for above in node.path[-2::-1] if above in self._at)
        start = next((checkpoint.flops for checkpoint in before), 0.0)
        return (mine.flops - start) / max(1, mine.states.nbytes + kv_bytes)


def least_worth(candidates: Sequence[EvictionCandidate], alpha: float) -> int:
    """Return the index of the candidate worth least: recency + ``alpha`` x FLOPs saved per byte, both scaled to 1.

    Without checkpoints, or at ``alpha`` 0, that is the least recently used. Marconi tunes alpha on the requests it
    saw; here it is given.
    """
    oldest, newest = min(c.used for c in candidates), max(c.used for c in candidates)
    most = max(c.efficiency for c in candidates)

    def worth(index: int) -> float:
        candidate = candidates[index]
        recency = (candidate.used - oldest) / max(1, newest - oldest)
        return recency + (alpha * candidate.efficiency / most if most else 0.0)

    return min(range(len(candidates)), key=worth)
