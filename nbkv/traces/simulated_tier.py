"""A tier without tensors: the radix tree and the policy of a store, and how many tokens K/V would be of."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

from nbkv.families.routing.cost_model import CostModel
from nbkv.stores.radix import Node, RadixTree
from nbkv.stores.tiers.indexed.policies import EntryUse, Policy


@dataclass(frozen=True)
class LowerTier:
    """A tier below the first one: ``size`` in tokens or bytes (``"100GiB"``), read at ``rate`` bytes a second."""

    name: str
    size: str | float
    rate: str | float


@dataclass
class _HeldRun:
    """What a node stands for: how often it was used, and its score as of then."""

    uses: int = 0
    score: float = 0.0


class SimulatedTier:
    """Keeps at most ``limit`` tokens of sequences, ``block`` to an id; ``policy`` says which leaf is evicted next.

    As in ``nbkv.stores.memory``: a node is a run of ids that all its users share, leaves are evicted whole, and what a
    request leaves is kept first and evicted afterwards, should it not fit.
    """

    def __init__(self, limit: float, policy: Policy, block: int, costs: CostModel) -> None:
        """Start empty; ``costs`` say what recomputing a run would take."""
        self._limit, self._policy, self._block, self._costs = limit, policy, block, costs
        self._tree: RadixTree[_HeldRun] = RadixTree(_split)
        self._heap: list[tuple[float, int, Node[_HeldRun]]] = []
        self._order = count()
        self._floor = 0.0
        self.tokens = 0
        self.evictions = 0

    def known(self, path: Sequence[int]) -> int:
        """Return how many first ids of ``path`` are there."""
        nodes = self._tree.match(path)
        return nodes[-1].stop if nodes else 0

    def keep(self, path: Sequence[int], limit: int) -> None:
        """Keep ``path``, of which at most ``limit`` ids were reused; evict until the tier's limit holds."""
        if self.known(path) > limit:
            self._tree.match(path[:limit])  # the request takes so much, which cuts the run there
        added = self._tree.insert(path, _HeldRun())
        if added is not None:
            self.tokens += len(added.ids) * self._block
        for node in self._tree.match(path):
            self._use(node)
        while self.tokens > self._limit and self._evict():
            pass

    def _use(self, node: Node[_HeldRun]) -> None:
        node.payload.uses += 1
        tokens = len(node.ids) * self._block
        seconds = self._costs.rows(tokens, node.stop * self._block)
        use = EntryUse(tick=node.used, uses=node.payload.uses, nbytes=tokens, seconds=seconds, floor=self._floor)
        node.payload.score = self._policy.score(use)
        self._offer(node)

    def _offer(self, node: Node[_HeldRun]) -> None:
        if not node.children and self._limit < inf:
            heapq.heappush(self._heap, (node.payload.score, next(self._order), node))

    def _evict(self) -> bool:
        while self._heap:
            score, _, node = heapq.heappop(self._heap)
            gone = node.parent is None or node.parent.children.get(node.ids[0]) is not node
            if gone or node.children or score != node.payload.score:  # used since, or not a leaf any more
                continue
            parent = RadixTree.remove(node)
            self.tokens -= len(node.ids) * self._block
            self._floor, self.evictions = score, self.evictions + 1
            if parent.parent is not None:
                self._offer(parent)
            return True
        return False


def _split(upper: Node[_HeldRun], lower: Node[_HeldRun]) -> None:
    """Give the new upper part the uses of the run that it was cut from."""
    upper.payload = _HeldRun(lower.payload.uses, lower.payload.score)
