"""A radix tree over token ids: a node is a run of tokens, the path to it a prefix that some request computed.

The tree holds no tensors: a node's payload is whatever the store puts there, and ``on_split`` tells the store when a
node was split in two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import count
from typing import Generic, TypeVar

P = TypeVar("P")
_TICKS = count(1)  # one clock for all trees: eviction compares across them


class Node(Generic[P]):
    """Tokens ``[start, stop)`` of a path. ``used`` is the tick of its last use; with ``leases`` it must not be evicted.

    ``ids`` are the node's own tokens, ``children`` the next nodes by their first token. Of two that may be evicted the
    one with the lower ``priority`` goes first.
    """

    __slots__ = ("children", "ids", "leases", "parent", "payload", "priority", "start", "used")

    def __init__(self, ids: Sequence[Hashable], start: int, parent: Node[P] | None, payload: P) -> None:
        """Make a node; ``RadixTree`` links it to its parent."""
        self.ids = tuple(ids)
        self.start = start
        self.parent = parent
        self.payload = payload
        self.children: dict[Hashable, Node[P]] = {}
        self.leases = 0
        self.used = 0
        self.priority = 0

    @property
    def stop(self) -> int:
        """Return the position after the node's last token."""
        return self.start + len(self.ids)

    @property
    def path(self) -> list[Node[P]]:
        """Return the nodes from the root, exclusive, down to this one."""
        nodes: list[Node[P]] = []
        node: Node[P] | None = self
        while node is not None and node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class RadixTree(Generic[P]):
    """Prefixes at token granularity; ``on_split(upper, lower)`` is called after a node was split in two.

    ``upper`` is then a new node with the payload of ``lower``, which keeps its children.
    """

    def __init__(self, on_split: Callable[[Node[P], Node[P]], None]) -> None:
        """Start with a root that holds no tokens."""
        self.root: Node[P] = Node((), 0, None, None)  # type: ignore[arg-type]  # of no tokens, so without a payload
        self._on_split = on_split

    def match(self, ids: Sequence[Hashable]) -> list[Node[P]]:
        """Return the path of the longest known prefix of ``ids``; its last node is split to end there.

        Takes time proportional to the prefix. The nodes count as used now.
        """
        tick, node, at, path = next(_TICKS), self.root, 0, []
        while at < len(ids) and (child := node.children.get(ids[at])) is not None:
            common = _common(child.ids, ids, at)
            if common < len(child.ids):
                child = self._split(child, common)
            child.used = tick
            path.append(child)
            node, at = child, child.stop
        return path

    def between(self, ids: Sequence[Hashable], start: int) -> list[Node[P]]:
        """Return the nodes that are known of ``ids[start:]``; two are split to begin and to end where these do."""
        self.match(ids[:start])
        return [node for node in self.match(ids) if node.start >= start]

    def insert(self, ids: Sequence[Hashable], payload: P) -> Node[P] | None:
        """Add the unknown rest of ``ids`` as one leaf with ``payload``; return it, or None if there is no rest."""
        path = self.match(ids)
        parent = path[-1] if path else self.root
        if parent.stop == len(ids):
            return None
        node = Node(ids[parent.stop :], parent.stop, parent, payload)
        node.used = next(_TICKS)
        parent.children[node.ids[0]] = node
        return node

    @staticmethod
    def remove(leaf: Node[P]) -> Node[P]:
        """Take ``leaf``, a node without children, out of its tree and return its parent."""
        assert leaf.parent is not None  # noqa: S101
        assert not leaf.children  # noqa: S101
        del leaf.parent.children[leaf.ids[0]]
        return leaf.parent

    def nodes(self) -> Iterator[Node[P]]:
        """Yield every node below the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _split(self, node: Node[P], at: int) -> Node[P]:
        assert node.parent is not None  # noqa: S101
        upper = Node(node.ids[:at], node.start, node.parent, node.payload)
        upper.used, upper.leases, upper.priority = node.used, node.leases, node.priority
        node.parent.children[upper.ids[0]] = upper
        node.ids, node.start, node.parent = node.ids[at:], node.start + at, upper
        upper.children[node.ids[0]] = node
        self._on_split(upper, node)
        return upper


def _common(known: Sequence[Hashable], ids: Sequence[Hashable], at: int) -> int:
    """Return the length of the longest common prefix of ``known`` and ``ids[at:]``."""
    stop = min(len(known), len(ids) - at)
    if tuple(known[:stop]) == tuple(ids[at : at + stop]):
        return stop
    return next(i for i in range(stop) if known[i] != ids[at + i])
