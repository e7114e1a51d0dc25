"""What a branch may read where it lives, and what it should rather copy into memory of its own.

Each piece that is read elsewhere is one more part of every layer's attention, for every token; a copy costs once. On a
CPU in float32 (heads and widths of ``nbkv bench``'s s06) a part of 128 tokens makes a decoded token 9 % slower, of 256
6 %, of 512 1 %, and of 1,024 5 % faster, as a group's query heads read its keys together; in bfloat16 none is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkv.kv import KV
from nbkv.stores.base import Home, PathBuffer
from nbkv.stores.radix import Node

PART = 512  # tokens whose copy one more part of the attention is worth


@dataclass(frozen=True)
class SharedSpan:
    """Tokens ``[start, stop)`` of a path that lie together in ``home``."""

    home: Home
    start: int
    stop: int

    def read(self) -> KV:
        """Return a view of them."""
        if isinstance(self.home, PathBuffer):
            return self.home.buffer.read(self.start, self.stop)
        return self.home[: self.stop - self.start]


def pieces(path: Sequence[Node[Home]]) -> list[SharedSpan]:
    """Return where the tokens of ``path`` lie; neighbours in one line are one piece."""
    found: list[SharedSpan] = []
    for node in path:
        assert node.payload is not None  # noqa: S101
        if found and isinstance(node.payload, PathBuffer) and found[-1].home is node.payload:
            found[-1] = SharedSpan(node.payload, found[-1].start, node.stop)
        else:
            found.append(SharedSpan(node.payload, node.start, node.stop))
    return found


def base(path: Sequence[Node[Home]]) -> int:
    """Return up to where a branch behind ``path`` should read in place; 0 where a copy of it all is cheaper."""
    found = pieces(path)
    ends = (0, *(piece.stop for piece in found))
    parts = min(range(len(ends)), key=lambda parts: parts * PART - ends[parts])
    return ends[parts]
