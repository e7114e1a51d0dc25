"""Leaves in the order of their last use, without looking at all of them: what a full store evicts next."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Any

from nbkv.stores.radix import Node

_SPARE = 64  # entries of nodes that are gone, besides as many as there are others


class LRULeaves:
    """A heap with one entry a leaf, as old as when it was made: a leaf used since then goes back when it comes up.

    Leaves on lease and nodes that are no leaves any more are left out as they come up. Whoever frees one adds it again.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[int, int, Node[Any]]] = []
        self._waiting: set[Node[Any]] = set()
        self._order = count()

    def add(self, node: Node[Any]) -> None:
        """Have ``node`` come up, if it is a leaf that nobody needs; once, however often it is added."""
        if node in self._waiting or node.leases or node.children:
            return
        self._waiting.add(node)
        heapq.heappush(self._heap, (node.used, next(self._order), node))

    def pop(self) -> Node[Any] | None:
        """Take out the leaf whose last use is longest ago; None if there is none."""
        while self._heap:
            used, _, node = heapq.heappop(self._heap)
            if node not in self._waiting:
                continue
            self._waiting.discard(node)
            if node.used == used and not (node.leases or node.children):
                return node
            self.add(node)
        return None

    def discard(self, node: Node[Any]) -> None:
        """Forget ``node``, which has left the tree by another way."""
        self._waiting.discard(node)
        if len(self._heap) > 2 * len(self._waiting) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._waiting.clear()
