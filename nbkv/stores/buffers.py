"""Where the K/V of radix tree nodes live, and the bytes that takes, counted as it changes.

There are two kinds of storage: a *path buffer*, which a model appended to and which many nodes of one path live in,
and a *compact copy*, the tokens of one node in memory of their own. A request asks neither kind which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from nbkv.kv import KV
from nbkv.stores.base import Buffer
from nbkv.stores.radix import Node


class NodeStorage(ABC):
    """Memory that holds the K/V of ``nodes``; each has its storage as payload. ``leased``: a request writes there."""

    in_buffer = False  # whether requests can append to it

    def __init__(self, *nodes: Node[NodeStorage]) -> None:
        """Hold ``nodes``."""
        self.nodes = set(nodes)
        self.leased = False

    def remove(self, node: Node[NodeStorage]) -> None:
        """Let ``node`` go."""
        self.nodes.discard(node)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes allocated."""

    @abstractmethod
    def read(self, start: int, stop: int) -> KV:
        """Return a view of the tokens ``[start, stop)``, absolute positions of the sequence."""

    @abstractmethod
    def appendable(self, stop: int) -> PathBuffer | None:
        """Return the buffer if a request may write in it from position ``stop`` on, else None."""

    @abstractmethod
    def move_to(self, buffer: PathBuffer, node: Node[NodeStorage]) -> None:
        """Have ``node`` live in ``buffer``, which holds its K/V too, where that frees memory here."""

    @abstractmethod
    def split(self, upper: Node[NodeStorage], lower: Node[NodeStorage]) -> None:
        """Follow the split of a node that lives here into ``upper`` (new) and ``lower``."""

    @abstractmethod
    def add_reader(self, stop: int) -> None:
        """Let nobody write before position ``stop`` until ``remove_reader``."""

    @abstractmethod
    def remove_reader(self, stop: int) -> None:
        """Undo one ``add_reader``."""


class CompactCopy(NodeStorage):
    """K/V of one node's own tokens in memory of their own, never written."""

    def __init__(self, node: Node[NodeStorage], kv: KV, *, owned: bool = False) -> None:
        """Copy ``kv``, the K/V of the tokens of ``node``; with ``owned`` it is nobody else's, and is kept itself."""
        super().__init__(node)
        self._start, self._kv = node.start, kv if owned else kv.compact()

    @property
    def nbytes(self) -> int:
        """Return the bytes of the node's tokens."""
        return self._kv.nbytes

    def read(self, start: int, stop: int) -> KV:
        """Return a view of the tokens ``[start, stop)``."""
        return self._kv[start - self._start : stop - self._start]

    def appendable(self, stop: int) -> None:
        """Return None: a copy is never written."""

    def move_to(self, buffer: PathBuffer, node: Node[NodeStorage]) -> None:
        """Have ``node`` live in ``buffer``: the copy is not needed any more."""
        self.nodes.discard(node)
        node.payload = buffer
        buffer.nodes.add(node)

    def split(self, upper: Node[NodeStorage], lower: Node[NodeStorage]) -> None:
        """Copy each half, so that evicting one of them frees its memory."""
        self.nodes.clear()
        for node in (upper, lower):
            node.payload = CompactCopy(node, self.read(node.start, node.stop))

    def add_reader(self, stop: int) -> None:
        """Do nothing: a copy is never written."""

    def remove_reader(self, stop: int) -> None:
        """Do nothing."""


class PathBuffer(NodeStorage):
    """A buffer that a model appended to, and the nodes that live in it.

    Invariant: for each of its nodes the buffer holds the K/V of the path to that node, from the buffer's base on, so
    its nodes lie on one path. Some node of that path may live in another storage: then the buffer holds a copy of it.
    """

    in_buffer = True

    def __init__(self, buffer: Buffer) -> None:
        """Start without nodes."""
        super().__init__()
        self.buffer = buffer
        self._read_ends: list[int] = []

    @property
    def base(self) -> int:
        """Return the position of the buffer's first token."""
        return self.buffer.base

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated, used or not."""
        return self.buffer.nbytes

    @property
    def read_end(self) -> int:
        """Return up to which position branches on lease read here: before it nothing may be written."""
        return max(self._read_ends, default=0)

    def read(self, start: int, stop: int) -> KV:
        """Return a view of the tokens ``[start, stop)``."""
        return self.buffer.read(start, stop)

    def appendable(self, stop: int) -> PathBuffer | None:
        """Return itself unless it is on lease, or branches read behind ``stop``."""
        return None if self.leased or stop < self.read_end else self

    def move_to(self, buffer: PathBuffer, node: Node[NodeStorage]) -> None:
        """Leave ``node`` here: its tokens stay part of this buffer's path in any case."""

    def split(self, upper: Node[NodeStorage], lower: Node[NodeStorage]) -> None:  # noqa: ARG002
        """Hold both."""
        self.nodes.add(upper)

    def remove(self, node: Node[NodeStorage]) -> None:
        """Let ``node`` go; unless a request writes here, free the memory behind the last token of the others."""
        super().remove(node)
        if self.nodes and not self.leased:
            self.buffer.truncate(max(other.stop for other in self.nodes))
            self.buffer.fit()

    def add_reader(self, stop: int) -> None:
        """Let nobody write before position ``stop`` until ``remove_reader``."""
        self._read_ends.append(stop)

    def remove_reader(self, stop: int) -> None:
        """Undo one ``add_reader``."""
        self._read_ends.remove(stop)

    def behind(self, position: int) -> list[Node[NodeStorage]]:
        """Return the nodes here that begin at ``position`` or behind it."""
        return [node for node in self.nodes if node.start >= position]


class BufferLedger:
    """All storage of a store with its bytes: as of the last change, or asked each time where a request writes.

    Storage that holds no node is not in the ledger, unless it is on lease.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._bytes: dict[NodeStorage, int] = {}
        self._sum = 0
        self._leased: set[PathBuffer] = set()
        self._unfitted: set[PathBuffer] = set()  # written since their last ``fit``, not on lease now

    def __iter__(self) -> Iterator[NodeStorage]:
        """Yield all storage, buffers on lease first."""
        yield from (*self._leased, *self._bytes)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated, used or not."""
        return self._sum + sum(buffer.nbytes for buffer in self._leased)

    def lease(self, buffer: PathBuffer) -> None:
        """Put ``buffer``, new or known, on lease."""
        self._forget(buffer)
        self._leased.add(buffer)
        buffer.leased = True

    def add(self, storage: NodeStorage) -> None:
        """Count ``storage``, which holds a new node."""
        self._count(storage)

    def release(self, buffer: PathBuffer) -> None:
        """End the lease of ``buffer``."""
        self._leased.discard(buffer)
        buffer.leased = False
        if buffer.nodes:
            self._unfitted.add(buffer)
            self._count(buffer)

    def fit(self) -> None:
        """Free the memory behind the last tokens of all buffers that are not on lease."""
        for buffer in self._unfitted:
            buffer.buffer.fit()
            self._count(buffer)
        self._unfitted.clear()

    def clear(self) -> None:
        """Forget everything but buffers on lease, and which nodes live in these."""
        self._bytes.clear()
        self._unfitted.clear()
        self._sum = 0
        for buffer in self._leased:
            buffer.nodes.clear()

    def cut(self, buffer: PathBuffer, stop: int) -> int:
        """Drop the tokens of ``buffer`` from ``stop`` on; nodes there get compact copies. Return the tokens copied."""
        copied = 0
        for node in buffer.behind(stop):
            buffer.nodes.discard(node)
            node.payload = CompactCopy(node, buffer.read(node.start, node.stop))
            self._count(node.payload)
            copied += len(node.ids)
        buffer.buffer.truncate(stop)
        return copied

    def fill(self, buffer: PathBuffer, nodes: Sequence[Node[NodeStorage]]) -> int:
        """Copy the K/V of ``nodes`` into ``buffer``, whose memory then serves them; return the tokens copied."""
        copied = 0
        for node in nodes:
            buffer.buffer.write(node.start, node.payload.read(node.start, node.stop))
            copied += len(node.ids)
        self.move(nodes, buffer)
        return copied

    def move(self, nodes: Sequence[Node[NodeStorage]], buffer: PathBuffer) -> None:
        """Have those of ``nodes`` that are compact copies live in ``buffer``, which holds their K/V."""
        for node in nodes:
            storage = node.payload
            storage.move_to(buffer, node)
            if not storage.nodes:
                self._forget(storage)

    def split(self, upper: Node[NodeStorage], lower: Node[NodeStorage]) -> None:
        """Follow the split of a node into ``upper`` and ``lower``."""
        whole = upper.payload
        whole.split(upper, lower)
        for storage in {whole, upper.payload, lower.payload}:
            self._recount(storage)

    def remove(self, node: Node[NodeStorage]) -> None:
        """Free what ``node``, which has left the tree, took."""
        storage = node.payload
        storage.remove(node)
        self._recount(storage)

    def _recount(self, storage: NodeStorage) -> None:
        if storage.leased:
            return
        if storage.nodes:
            self._count(storage)
        else:
            self._forget(storage)

    def _count(self, storage: NodeStorage) -> None:
        now = storage.nbytes
        self._sum += now - self._bytes.get(storage, 0)
        self._bytes[storage] = now

    def _forget(self, storage: NodeStorage) -> None:
        self._unfitted -= {storage}
        self._sum -= self._bytes.pop(storage, 0)


def own_nbytes(node: Node[NodeStorage]) -> int:
    """Return the bytes of the K/V of ``node``'s own tokens."""
    return node.payload.read(node.start, node.stop).nbytes
