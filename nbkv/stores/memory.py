"""The memory store: a radix tree over token ids whose K/V live in the very buffers that the model appends to.

A request that continues a stored sequence appends to its buffer: nothing is copied. A request that branches off earlier
takes that buffer over as well; only the tail that is not its own is copied out, into memory of its own. Where that tail
is longer than the shared prefix, or the buffer is on lease, the request gets a branch: a buffer of its own tokens only,
which attends to the shared prefix where it is stored. So k branches hold their prefix once, and no branch can overwrite
another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from nbkv.events import Bus, Evicted, Stored
from nbkv.kv import KV, Space, join
from nbkv.stores import prefix_sharing
from nbkv.stores.base import Buffer, Counts, Keeping, Lease, ScratchSpaces, TierLoad, in_short
from nbkv.stores.buffers import BufferLedger, CompactCopy, NodeStorage, PathBuffer, own_nbytes
from nbkv.stores.eviction import LRULeaves, lowest_scored
from nbkv.stores.prefix_sharing import Holding
from nbkv.stores.radix import Node, RadixTree
from nbkv.stores.snapshots.base import Snapshots
from nbkv.stores.state_checkpoints import StateCheckpoint, StateCheckpoints

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ["tokens", "own_tokens", "bytes", "state_bytes", "in_buffer", "lineage", "tenant", "used"]


# Called with the space, the ids of the whole path, and its last node: its begin, views of its K/V, its priority.
EvictionListener = Callable[[Space, Sequence[int], int, KV, int], None]


@dataclass(eq=False, repr=False)
class MemoryStore:
    """K/V on the model's own devices, at most ``limit`` bytes; the least recently used leaves are evicted first.

    Of several priorities the lowest goes before all others. Where a model's recurrent layers left state checkpoints,
    the lowest eviction score goes first: recency + ``alpha`` x FLOPs saved per byte (``nbkv.stores.eviction``). What is
    on lease is never evicted, so requests that run may exceed the limit. ``on_evict`` is told of K/V before they go.
    Implements ``nbkv.stores.base.Store``, where the methods are described.
    """

    limit: int
    bus: Bus = field(default_factory=Bus)
    name: str = "memory"
    counts: Counts = field(default_factory=Counts)
    scratch_spaces: ScratchSpaces = field(default_factory=ScratchSpaces)
    alpha: float = 1.0
    on_evict: EvictionListener | None = None
    snapshots: Snapshots | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Start empty."""
        self._trees: dict[Space, RadixTree[NodeStorage]] = {}
        self._buffers = BufferLedger()
        self._leaves = LRULeaves()
        self._checkpoints = StateCheckpoints()
        self._holdings: dict[Lease, Holding] = {}
        self._pins: set[tuple[Space, tuple[int, ...]]] = set()
        self._lock = threading.RLock()

    def take(
        self,
        space: Space,
        ids: Sequence[int],
        limit: int,
        new: Callable[[], Buffer],
        *,
        states_from: int | None = None,
        branch_at: Callable[[int], Buffer] | None = None,
        layerwise: bool = False,  # noqa: ARG002  (all of it is here)
    ) -> Lease:
        """Lease a buffer that holds the longest known prefix of ``ids``, at most ``limit`` tokens of it."""
        with self._lock:
            tree, steps = self._tree(space), space.path(ids)
            known = _length(tree.match(steps))
            path = tree.match(space.path(ids[:limit]) if known > limit else steps)
            branch = _length(path)
            if states_from is not None:
                path = path[: self._checkpoints.deepest(path, states_from)]
            buffer, held = prefix_sharing.buffer_behind(path, new, branch_at)
            lease = Lease(space, buffer.buffer, _length(path), known, branch)
            if states_from is not None and path:
                lease.checkpoint = self._checkpoints.of(path[-1])
            self._buffers.lease(buffer)
            self._holdings[lease] = Holding(buffer, path)
            copied = self._buffers.cut(buffer, held)
            lease.copied = copied + self._buffers.fill(buffer, [node for node in path if node.start >= held])
            self.counts.hits += bool(lease.matched)
            self.counts.misses += not lease.matched
            return lease

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """End ``lease`` and keep what its buffer holds: K/V of ``ids``, counted from the sequence's first token."""
        with self._lock:
            buffer, tree, steps = self._holdings[lease].buffer, self._tree(lease.space), lease.space.path(ids)
            lease.buffer.truncate(len(steps))
            path = tree.match(steps)
            if _length(path) < buffer.base:  # the store was cleared, and the prefix that the branch shared is gone
                self._end(lease)
                return
            self._buffers.move([node for node in path if node.start >= buffer.base], buffer)
            added = tree.insert(steps, buffer)
            if added is not None:
                buffer.nodes.add(added)
                self._leaves.add(added)
                self._emit(Stored(tokens=len(added.ids), nbytes=own_nbytes(added), tier=self.name))
            for start, stop, priority in lease.priorities:
                nodes = tree.between(lease.space.path(ids[:stop]), len(lease.space.path(ids[:start])))
                self._prioritise([node for node in nodes if not node.priority], priority)
            for checkpoint in (*lease.made, *checkpoints):
                self._keep_checkpoint(tree, ids, checkpoint)
            over = self.nbytes > self.limit
            needed = self._needed(tree.match(steps), buffer) if over else 0
            self._end(lease)
            if over and not self._continues(tree, steps, checkpoints):
                lease.too_large = needed

    def put(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> int:
        """Keep a copy of ``kv``, the K/V of ``ids[start:]``, unless tokens before ``start`` are not known."""
        return self.adopt(space, ids, start, kv.compact())

    def adopt(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> int:
        """Keep ``kv`` itself as ``put`` keeps a copy: nobody writes there any more."""
        with self._lock:
            tree, steps = self._tree(space), space.path(ids)
            path = tree.match(steps)
            known = _length(path)
            if not start <= known < len(steps):
                return 0
            new = kv[known - start : len(steps) - start]
            added = tree.insert(steps, None)  # type: ignore[arg-type]  # its payload is made of the node itself
            assert added is not None  # noqa: S101
            added.payload = CompactCopy(added, new, owned=True)
            self._buffers.add(added.payload)
            self._leaves.add(added)
            self._emit(Stored(tokens=new.length, nbytes=new.nbytes, tier=self.name))
            self._evict()
            return new.length

    def discard(self, lease: Lease) -> None:
        """End ``lease``; what the request wrote is dropped, what was known before stays."""
        with self._lock:
            lease.buffer.truncate(lease.matched)
            self._end(lease)

    @contextmanager
    def reading(
        self,
        space: Space,
        ids: Sequence[int],
        start: int = 0,
        *,
        layerwise: bool = False,  # noqa: ARG002  (all of it is here)
    ) -> Iterator[list[tuple[int, KV]]]:
        """Give the known K/V of ``ids[start:]`` as views, in pairs of a position and the K/V from there on."""
        with self._lock:
            found = self._views(space, ids, start)
            self.counts.hits += bool(found)
            self.counts.misses += not found
            yield found

    def copied(self, space: Space, ids: Sequence[int], start: int) -> KV | None:
        """Return a copy on the CPU of the known K/V of ``ids[start:]``; counts neither as a hit nor as a miss."""
        with self._lock:
            parts = [kv.on_host() for _, kv in self._views(space, ids, start)]
        return join(parts) if parts else None

    def runs(self, space: Space, ids: Sequence[int], start: int) -> list[tuple[int, int]]:
        """Return where runs of one priority end in the known part of ``ids[start:]``, and the priority of each."""
        with self._lock:
            nodes = [node for node in self._path(space, ids) if node.stop > start]
        return [(max(node.stop for node in run), each) for each, run in groupby(nodes, lambda node: node.priority)]

    def paths(self) -> list[tuple[Space, Sequence[int]]]:
        """Return the token ids of every stored sequence with its space."""
        with self._lock:
            leaves = [(s, node) for s, tree in self._trees.items() for node in tree.nodes() if not node.children]
            return [(space, space.ids([step for above in leaf.path for step in above.ids])) for space, leaf in leaves]

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` are known in ``space``."""
        with self._lock:
            return _length(self._path(space, ids))

    def loads(self, space: Space, ids: Sequence[int], start: int = 0) -> list[TierLoad]:  # noqa: ARG002
        """Return nothing: all there is is here."""
        return []

    def clear(self) -> None:
        """Drop all KV and empty the scratch spaces; buffers on lease stay with their requests."""
        with self._lock:
            self.scratch_spaces.clear()
            self._pins.clear()
            self._trees.clear()
            self._checkpoints.clear()
            self._leaves.clear()
            self._buffers.clear()

    def keep(self, space: Space, ids: Sequence[int], how: Keeping) -> int:
        """Give the K/V of ``ids`` a priority, and pin or unpin them; of what is known in part nothing is pinned."""
        with self._lock:
            path, name = self._path(space, ids), (space, tuple(ids))
            whole = _length(path) == len(space.path(ids))
            self._prioritise(path, how.priority)  # before anything is evicted: what has left must not come up again
            if how.pinned and whole and name not in self._pins:
                self._pins.add(name)
                for node in path:
                    node.leases += 1
            elif not how.pinned and name in self._pins:
                self._pins.discard(name)
                for node in path:
                    node.leases -= 1
                    self._leaves.add(node)
                self._evict()
            return _length(path)

    def rank(self, space: Space, ids: Sequence[int], rank: float) -> None:
        """Do nothing: memory evicts by recency, and by what states save."""

    def flush(self) -> None:
        """Do nothing: no other process reads this one's memory."""

    def close(self) -> None:
        """Free the memory."""
        self.clear()

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated: buffers, used or not, compact copies, and checkpoints."""
        with self._lock:
            return self._buffers.nbytes + self._checkpoints.nbytes

    def __repr__(self) -> str:
        """Return what the store is and holds, in a line; ``tiers`` is the table."""
        return in_short(self)

    @property
    def tiers(self) -> pd.DataFrame:
        """Return ``figures`` as a table, one row a tier."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.figures())

    def figures(self) -> list[dict[str, int | float | str]]:
        """Return this tier's counts and bytes as plain data; entries are nodes of the tree."""
        with self._lock:
            nodes = list(self._nodes())
            return [
                {
                    "tier": self.name,
                    "entries": len(nodes),
                    "tokens": sum(len(node.ids) for node in nodes),
                    "bytes": self.nbytes,
                    "limit": self.limit,
                    "hits": self.counts.hits,
                    "misses": self.counts.misses,
                    "evictions": self.counts.evictions,
                    "faults": self.counts.faults,
                    "checkpoints": len(self._checkpoints),
                    "state_bytes": self._checkpoints.nbytes,
                }
            ]

    def ls(self) -> pd.DataFrame:
        """Return one row for each stored sequence (a leaf of the tree), the most recently used first."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        with self._lock:
            rows = [
                (
                    node.stop,
                    len(node.ids),
                    own_nbytes(node),
                    sum(self._checkpoints.bytes_of(above) for above in node.path),
                    node.payload.in_buffer,
                    space.lineage,
                    space.tenant,
                    node.used,
                )
                for space, tree in self._trees.items()
                for node in tree.nodes()
                if not node.children
            ]
        return Frame(rows, columns=_COLUMNS).sort_values("used", ascending=False, ignore_index=True)

    def _tree(self, space: Space) -> RadixTree[NodeStorage]:
        if space not in self._trees:
            self._trees[space] = RadixTree(self._buffers.split)
        return self._trees[space]

    def _path(self, space: Space, ids: Sequence[int]) -> list[Node[NodeStorage]]:
        return self._trees[space].match(space.path(ids)) if space in self._trees else []

    def _views(self, space: Space, ids: Sequence[int], start: int) -> list[tuple[int, KV]]:
        begins = [(max(node.start, start), node) for node in self._path(space, ids) if node.stop > start]
        return [(begin, node.payload.read(begin, node.stop)) for begin, node in begins]

    def _nodes(self) -> Iterator[Node[NodeStorage]]:
        for tree in self._trees.values():
            yield from tree.nodes()

    def _end(self, lease: Lease) -> None:
        holding = self._holdings.pop(lease)
        path = holding.release()
        self._buffers.release(holding.buffer)
        tree = self._trees.get(lease.space)
        if path and tree is not None and path[0].parent is tree.root:  # the store was not cleared meanwhile
            self._leaves.add(path[-1])
        self._evict()

    def _needed(self, path: Sequence[Node[NodeStorage]], buffer: PathBuffer) -> int:
        """Return the bytes that ``path`` takes, which ``buffer`` holds or is a branch of, when nothing is to spare."""
        buffer.buffer.fit()
        elsewhere = sum(own_nbytes(node) for node in path if node.payload is not buffer)
        return buffer.nbytes + elsewhere + sum(self._checkpoints.bytes_of(node) for node in path)

    def _continues(
        self, tree: RadixTree[NodeStorage], steps: Sequence[Hashable], checkpoints: Sequence[StateCheckpoint]
    ) -> bool:
        """Return whether all of ``steps`` is still there, and where it ends the checkpoint that continues it."""
        path = tree.match(steps)
        return _length(path) == len(steps) and (not checkpoints or self._checkpoints.of(path[-1]) is not None)

    def _evict(self) -> None:
        """Free unused memory of buffers, then evict until the limit is kept."""
        if self.nbytes > self.limit:
            self._buffers.fit()
        while self.nbytes > self.limit:
            if len(self._checkpoints):
                node = lowest_scored(self._nodes(), self._checkpoints, self.alpha)
            else:
                node = self._leaves.pop()
            if node is None:
                return
            self._drop(node)

    def _prioritise(self, nodes: Sequence[Node[NodeStorage]], priority: int) -> None:
        for node in nodes:
            node.priority = priority
            self._leaves.discard(node)
            self._leaves.add(node)

    def _drop(self, node: Node[NodeStorage]) -> None:
        """Evict ``node`` with its checkpoint; of a node with children the checkpoint alone."""
        tokens, nbytes, digest = 0, self._checkpoints.drop(node), None
        if not node.children:
            tokens, nbytes, digest = len(node.ids), nbytes + own_nbytes(node), hash(node.ids)
            if self.on_evict is not None:
                self._tell_eviction(node, self.on_evict)
            parent = RadixTree.remove(node)
            self._leaves.discard(node)
            if parent.parent is not None:
                self._leaves.add(parent)
            self._buffers.remove(node)
        self.counts.evictions += 1
        self._emit(Evicted(tokens=tokens, nbytes=nbytes, tier=self.name, start=node.start, digest=digest))

    def _tell_eviction(self, node: Node[NodeStorage], listener: EvictionListener) -> None:
        path = node.path
        space = next(space for space, tree in self._trees.items() if tree.root is path[0].parent)
        steps = [step for above in path for step in above.ids]
        listener(space, space.ids(steps), node.start, node.payload.read(node.start, node.stop), node.priority)

    def _keep_checkpoint(self, tree: RadixTree[NodeStorage], ids: Sequence[int], checkpoint: StateCheckpoint) -> None:
        """Keep ``checkpoint`` behind the node that ends at its position, splitting one if need be."""
        states = checkpoint.states
        if not states.at or states.at > len(ids):
            return
        node = tree.match(ids[: states.at])[-1]
        if node.stop == states.at and self._checkpoints.put(node, checkpoint):
            self._emit(Stored(tokens=0, nbytes=states.nbytes, tier=self.name))

    def _emit(self, event: Stored | Evicted) -> None:
        if self.bus.heard:
            self.bus.emit(event)


def _length(path: Sequence[Node[NodeStorage]]) -> int:
    """Return how many tokens the nodes of ``path`` hold together."""
    return path[-1].stop if path else 0
