"""Where a request appends: to the buffer of its prefix, to a branch that attends to a shared prefix, or to a new one.

A branch attends to K/V where they are stored instead of copying them. Each span of them is one more part of every
layer's attention, for every token; a copy costs once. On a CPU in float32 (heads and head dimensions of ``nbkv
bench``'s s06) a part of 128 tokens makes decoding 9 % slower, of 256 6 %, of 512 1 %, and of 1,024 5 % faster, as a
group's query heads read its keys together; in bfloat16 none is slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nbkv.kv import KV
from nbkv.stores.base import Buffer
from nbkv.stores.buffers import NodeStorage, PathBuffer
from nbkv.stores.radix import Node

PART = 512  # tokens that are copied rather than attended to as one more part


@dataclass(frozen=True)
class SharedSpan:
    """Tokens ``[start, stop)`` of a path that lie together in ``storage``."""

    storage: NodeStorage
    start: int
    stop: int

    def read(self) -> KV:
        """Return a view of their K/V."""
        return self.storage.read(self.start, self.stop)


def spans(path: Sequence[Node[NodeStorage]], stop: int) -> list[SharedSpan]:
    """Return where the tokens of ``path`` before position ``stop`` are stored; neighbours in one buffer as one."""
    found: list[SharedSpan] = []
    for node in path:
        if node.start >= stop:
            break
        start = node.start
        if found and found[-1].storage is node.payload:
            start = found.pop().start
        found.append(SharedSpan(node.payload, start, min(node.stop, stop)))
    return found


def base(path: Sequence[Node[NodeStorage]]) -> int:
    """Return up to which position a branch behind ``path`` should attend in place; 0 where a copy of all is cheaper."""
    found = spans(path, path[-1].stop) if path else []
    ends = (0, *(span.stop for span in found))
    parts = min(range(len(ends)), key=lambda parts: parts * PART - ends[parts])
    return ends[parts]


def buffer_behind(
    path: Sequence[Node[NodeStorage]], new: Callable[[], Buffer], branch_at: Callable[[int], Buffer] | None
) -> tuple[PathBuffer, int]:
    """Return the buffer for a request behind ``path``, and up to which position it needs no copy of the path's K/V.

    That is the buffer of the path's last node that can be appended to, if the tokens behind that node, which would have
    to be copied out, are no more than those that need no copy then; else a new one, a branch where that is cheaper.
    ``branch_at`` is None where the caller cannot attend to K/V in another buffer.
    """
    for node in reversed(path):
        buffer = node.payload.appendable(node.stop)
        if buffer is None or (buffer.base and branch_at is None):
            continue
        if sum(len(other.ids) for other in buffer.behind(node.stop)) <= node.stop:
            return buffer, node.stop
    at = base(path) if branch_at else 0
    return PathBuffer(branch_at(at) if branch_at and at else new()), at


@dataclass(eq=False)
class Holding:
    """What a request holds while its lease lasts: nothing of it is evicted, or written by another request.

    That is the ``buffer`` it appends to, the nodes of its ``path``, and where ``buffer`` is a branch the spans before
    it, which it attends to where they are stored.
    """

    buffer: PathBuffer
    path: list[Node[NodeStorage]]
    shared: list[SharedSpan] = field(init=False)

    def __post_init__(self) -> None:
        """Begin to hold."""
        self.shared = spans(self.path, self.buffer.base)
        for node in self.path:
            node.leases += 1
        for span in self.shared:
            span.storage.add_reader(span.stop)
        if self.shared:
            self.buffer.buffer.share([span.read() for span in self.shared])

    def release(self) -> list[Node[NodeStorage]]:
        """Hold nothing any more; return the path, longer by now where one of its nodes was split."""
        path = self.path[-1].path if self.path else []
        for node in path:
            node.leases -= 1
        for span in self.shared:
            span.storage.remove_reader(span.stop)
        if self.shared:
            self.buffer.buffer.share(())
        return path
