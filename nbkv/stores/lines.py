"""What a store keeps K/V in: a *line*, one contiguous buffer that a model can go on writing, and who lives in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from nbkv.kv import KV
from nbkv.radix import Node


class Buffer(Protocol):
    """The tokens ``[0, length)`` of one sequence, layer by layer; ``nbkv.models.cache.GrowingCache`` is one."""

    @property
    def length(self) -> int:
        """Return the number of tokens held by every layer."""

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""

    def read(self, start: int, stop: int) -> KV:
        """Return a view of the tokens ``[start, stop)``."""

    def write(self, start: int, kv: KV) -> None:
        """Put ``kv`` at ``start``."""

    def fit(self) -> None:
        """Give back the memory behind the last token."""


@dataclass(eq=False)
class Line:
    """A buffer and the tree nodes that live in it.

    Invariant: for each of its nodes the buffer holds the K/V of the whole path from the root to that node, so the nodes
    of a line lie on one path. A node of the path may live elsewhere: then the line holds a copy of it.
    """

    buffer: Buffer
    nodes: set[Node[Home]] = field(default_factory=set)
    leased: bool = False

    @property
    def needed(self) -> int:
        """Return how many tokens of the buffer its nodes need."""
        return max((node.stop for node in self.nodes), default=0)


Home = Line | KV
