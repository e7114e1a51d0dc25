"""What a full store evicts next, of those of the lowest priority: the least recently used leaf.

With state checkpoints it is what has the lowest score.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from nbkv.stores.buffers import NodeStorage, own_nbytes
from nbkv.stores.radix import Node
from nbkv.stores.state_checkpoints import StateCheckpoints

_SPARE = 64  # stale heap entries that are tolerated, besides as many as there are live ones


class LRULeaves:
    """Leaves by priority and recency: a heap with one entry a leaf, so that evicting one of n takes O(log n).

    An entry has the tick at which it was made: a leaf used since then is put back when it comes up. Whoever changes a
    leaf's priority discards it and adds it again. Leaves on lease and nodes that have children by now are dropped as
    they come up; whoever frees one adds it again.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[int, int, int, Node[NodeStorage]]] = []
        self._waiting: set[Node[NodeStorage]] = set()
        self._order = count()

    def add(self, node: Node[NodeStorage]) -> None:
        """Have ``node`` come up, if it is a leaf without leases; once, however often it is added."""
        if node in self._waiting or node.leases or node.children:
            return
        self._waiting.add(node)
        heapq.heappush(self._heap, (node.priority, node.used, next(self._order), node))

    def pop(self) -> Node[NodeStorage] | None:
        """Take out the leaf without leases that goes first; None if there is none."""
        while self._heap:
            priority, used, _, node = heapq.heappop(self._heap)
            if node not in self._waiting:
                continue
            self._waiting.discard(node)
            if (node.priority, node.used) == (priority, used) and not (node.leases or node.children):
                return node
            self.add(node)
        return None

    def discard(self, node: Node[NodeStorage]) -> None:
        """Drop ``node``, which has left the tree without coming up."""
        self._waiting.discard(node)
        if len(self._heap) > 2 * len(self._waiting) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[-1] in self._waiting]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Drop all."""
        self._heap.clear()
        self._waiting.clear()


@dataclass(frozen=True)
class EvictionCandidate:
    """What the eviction score is made of: the tick of the last use, and FLOPs saved per byte."""

    used: int
    efficiency: float


def lowest_score(candidates: Sequence[EvictionCandidate], alpha: float) -> int:
    """Return the index of the candidate with the lowest score: recency + ``alpha`` x FLOPs saved per byte.

    Both are scaled to ``[0, 1]`` over the candidates (Marconi, arXiv 2411.19379, section 4.2). At ``alpha`` 0, or
    where no candidate has a checkpoint, that is the least recently used. Marconi tunes alpha on the requests it saw;
    here it is given.
    """
    oldest, newest = min(c.used for c in candidates), max(c.used for c in candidates)
    most = max(c.efficiency for c in candidates)

    def score(index: int) -> float:
        candidate = candidates[index]
        recency = (candidate.used - oldest) / max(1, newest - oldest)
        return recency + (alpha * candidate.efficiency / most if most else 0.0)

    return min(range(len(candidates)), key=score)


def lowest_scored(
    nodes: Iterable[Node[NodeStorage]], checkpoints: StateCheckpoints, alpha: float
) -> Node[NodeStorage] | None:
    """Return which of ``nodes`` to evict from a store with ``checkpoints``; None if none may be evicted.

    A leaf may, with its K/V and its checkpoint; so may the checkpoint alone of a node with one child. Branch points may
    not, nor what is on lease. Takes time proportional to the number of nodes.
    """
    free = [node for node in nodes if _evictable(node, checkpoints)]
    lowest = min((node.priority for node in free), default=0)
    found = [node for node in free if node.priority == lowest]
    scored = [
        EvictionCandidate(node.used, checkpoints.efficiency(node, 0 if node.children else own_nbytes(node)))
        for node in found
    ]
    return found[lowest_score(scored, alpha)] if found else None


def _evictable(node: Node[NodeStorage], checkpoints: StateCheckpoints) -> bool:
    if node.leases:
        return False
    return not node.children or (len(node.children) == 1 and checkpoints.of(node) is not None)
