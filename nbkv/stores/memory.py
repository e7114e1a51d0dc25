"""The memory store: a radix tree over token ids whose K/V live in the very buffers the model writes.

A request that continues where a line ends goes on writing that line: nothing is copied. A request that branches off
earlier takes the line over as well; only the tail that is not its own is copied out, into memory of its own. Where that
tail is longer than what is shared, or the line is in use, the branch gets a line of its own tokens only and reads what
is shared where it lives. So k branches hold their prefix once, and no branch can overwrite another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nbkv.events import Bus, Evicted, Stored
from nbkv.kv import KV, Space
from nbkv.stores import prefix_sharing
from nbkv.stores.base import Branch, Buffer, Counts, Home, Lease, PathBuffer
from nbkv.stores.buffers import BufferLedger
from nbkv.stores.listing import own_bytes, sequences
from nbkv.stores.lru import LRULeaves
from nbkv.stores.radix import Node, RadixTree
from nbkv.stores.scratch import ScratchSpaces
from nbkv.stores.state_checkpoints import StateCheckpoint, StateCheckpoints, least_worth

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class MemoryStore:
    """Prefixes on the model's own device, at most ``limit`` bytes of them; the least recently used leaves go first.

    Of models with recurrent layers what is worth least goes first: recency + ``alpha`` x FLOPs saved per byte.
    """

    limit: int
    bus: Bus = field(default_factory=Bus)
    name: str = "memory"
    counts: Counts = field(default_factory=Counts)
    scratch_spaces: ScratchSpaces = field(default_factory=ScratchSpaces)
    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Start empty."""
        self._trees: dict[Space, RadixTree[Home]] = {}
        self._lines = BufferLedger()
        self._leaves = LRULeaves()
        self._checkpoints = StateCheckpoints()
        self._tails = 0  # bytes of nodes with memory of their own
        self._lock = threading.RLock()

    def take(
        self,
        space: Space,
        ids: Sequence[int],
        limit: int,
        new: Callable[[], Buffer],
        *,
        states_from: int | None = None,
        branch_at: Callable[[int], Branch] | None = None,
    ) -> Lease:
        """Lease a line that holds the longest known prefix of ``ids``, at most ``limit`` tokens of it.

        ``known`` of the lease says how long the known prefix is without that limit. With ``states_from`` the prefix
        ends at its last checkpoint, which stands behind at least so many tokens. ``new`` makes an empty buffer;
        ``branch_at``, of a caller that can go on from one, makes a buffer for the tokens from a position on: the
        lease's line may then be one that reads what is before where it lives, until the lease ends.
        """
        with self._lock:
            tree, steps = self._trees.setdefault(space, RadixTree(self._on_split)), space.path(ids)
            known = sum(len(node.ids) for node in tree.match(steps))
            path = tree.match(space.path(ids[:limit]) if known > limit else steps)
            branch = path[-1].stop if path else 0
            if states_from is not None:
                path = path[: self._checkpoints.deepest(path, states_from)]
            matched = path[-1].stop if path else 0
            line, held = self._line_for(path, matched, new, branch_at)
            lease = Lease(space, line, matched, known, path, 0, branch)
            if states_from is not None and path:
                lease.checkpoint = self._checkpoints.of(path[-1])
            self._lines.lease(line)
            for node in path:
                node.leases += 1
            lease.copied = self._displace(line, held) + self._fill(line, path, held)
            self._share(lease)
            self.counts.hits += bool(matched)
            self.counts.misses += not matched
            return lease

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """Keep what the leased line now holds, ``ids`` from its first token on, and end the lease.

        ``checkpoints`` and those the lease has ``made`` are kept at their positions among these tokens.
        """
        with self._lock:
            line, steps = lease.line, lease.space.path(ids)
            line.buffer.truncate(len(steps))
            tree = self._trees.setdefault(lease.space, RadixTree(self._on_split))
            path = tree.match(steps)
            if (path[-1].stop if path else 0) < line.base:  # the store was cleared, and what the branch read is gone
                self._end(lease)
                return
            for node in path:
                if isinstance(node.payload, KV) and node.start >= line.base:
                    self._settle(node, line)
            added = tree.insert(steps, line)
            if added is not None:
                line.nodes.add(added)
                self._leaves.add(added)
                self._emit(Stored(tokens=len(added.ids), nbytes=own_bytes(added), tier=self.name))
            for checkpoint in (*lease.made, *checkpoints):
                self._hang(tree, ids, checkpoint)
            self._end(lease)

    def discard(self, lease: Lease) -> None:
        """Forget what the request wrote, keep what was there before, and end the lease."""
        with self._lock:
            lease.line.buffer.truncate(lease.matched)
            self._end(lease)

    @contextmanager
    def reading(self, space: Space, ids: Sequence[int], start: int = 0) -> Iterator[list[tuple[int, KV]]]:
        """Give views of what is known of ``ids[start:]`` from its beginning on: pieces of KV and where each begins.

        The views hold for the length of the block. A hit is counted if there is anything.
        """
        with self._lock:
            tree = self._trees.get(space)
            pieces = []
            for node in tree.match(space.path(ids)) if tree else []:
                if node.stop > start and node.payload is not None:
                    begin, home = max(node.start, start), node.payload
                    kv = (
                        home.buffer.read(begin, node.stop)
                        if isinstance(home, PathBuffer)
                        else home[slice(begin - node.start, None)]
                    )
                    pieces.append((begin, kv))
            self.counts.hits += bool(pieces)
            self.counts.misses += not pieces
            yield pieces

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` are known in ``space``."""
        with self._lock:
            tree = self._trees.get(space)
            return sum(len(node.ids) for node in tree.match(space.path(ids))) if tree else 0

    def clear(self) -> None:
        """Forget everything, scratch spaces included; a line on lease stays until its request ends."""
        with self._lock:
            self.scratch_spaces.clear()
            self._trees.clear()
            self._checkpoints.clear()
            self._leaves.clear()
            self._lines.clear()
            self._tails = 0

    def close(self) -> None:
        """Free the memory."""
        self.clear()

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated: whole lines, tails that have memory of their own, and checkpoints."""
        with self._lock:
            return self._lines.nbytes + self._tails + self._checkpoints.nbytes

    @property
    def tiers(self) -> pd.DataFrame:
        """Return one row a tier: entries (tree nodes), tokens, bytes, limit, hits, misses, evictions, checkpoints.

        ``state_bytes`` are the bytes of the checkpoints, a part of ``bytes``.
        """
        import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

        return pd.DataFrame(self.figures())

    def figures(self) -> list[dict[str, int | str]]:
        """Return what ``tiers`` shows, as plain data."""
        with self._lock:
            nodes = [node for tree in self._trees.values() for node in tree.nodes()]
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
                    "checkpoints": len(self._checkpoints),
                    "state_bytes": self._checkpoints.nbytes,
                }
            ]

    def ls(self) -> pd.DataFrame:
        """Return one row for each stored sequence (a leaf of the tree), the most recently used first.

        ``bytes`` are those of its own tokens' K/V, ``state_bytes`` those of all checkpoints from its first token on.
        """
        with self._lock:
            return sequences(self._trees, self._checkpoints)

    def _line_for(
        self,
        path: list[Node[Home]],
        matched: int,
        new: Callable[[], Buffer],
        branch_at: Callable[[int], Branch] | None,
    ) -> tuple[PathBuffer, int]:
        """Return the line to write on and how many tokens of the path it holds, or reads elsewhere, already."""
        for node in reversed(path):
            line = node.payload
            if isinstance(line, PathBuffer) and not line.leased and node.stop >= line.read_to:
                if line.base and branch_at is None:
                    continue
                outgoing = sum(len(other.ids) for other in line.nodes if other.start >= node.stop)
                if outgoing + matched - node.stop <= matched:
                    return line, node.stop
        base = prefix_sharing.base(path) if branch_at else 0
        return PathBuffer(branch_at(base) if branch_at and base else new()), base

    def _displace(self, line: PathBuffer, held: int) -> int:
        """Copy out the nodes of ``line`` behind ``held``, so that it can be written there; return the tokens copied."""
        moved = 0
        for node in [node for node in line.nodes if node.start >= held]:
            node.payload = line.buffer.read(node.start, node.stop).compact()
            self._tails += node.payload.nbytes
            line.nodes.discard(node)
            moved += len(node.ids)
        line.buffer.truncate(held)
        return moved

    def _fill(self, line: PathBuffer, path: list[Node[Home]], held: int) -> int:
        """Copy the nodes of ``path`` from ``held`` on into ``line``; return the tokens copied."""
        copied = 0
        for node in path:
            if node.start < held or node.payload is None:
                continue
            home = node.payload
            line.buffer.write(
                node.start, home.buffer.read(node.start, node.stop) if isinstance(home, PathBuffer) else home
            )
            if isinstance(home, KV):
                self._settle(node, line)
            copied += len(node.ids)
        return copied

    def _share(self, lease: Lease) -> None:
        """Have a branch on lease read what is before its own tokens where that lives."""
        line = lease.line
        if not line.base or not isinstance(line.buffer, Branch):
            return
        before = [node for node in lease.nodes if node.start < line.base]
        pieces = [replace(piece, stop=min(piece.stop, line.base)) for piece in prefix_sharing.pieces(before)]
        line.buffer.share([piece.read() for piece in pieces])
        lease.reads = tuple((piece.home, piece.stop) for piece in pieces if isinstance(piece.home, PathBuffer))
        for home, stop in lease.reads:
            home.readers.append(stop)

    def _settle(self, node: Node[Home], line: PathBuffer) -> None:
        """Let ``node`` live in ``line``, which holds its tokens, and free the memory of its own."""
        if isinstance(node.payload, KV):
            self._tails -= node.payload.nbytes
        node.payload = line
        line.nodes.add(node)

    def _on_split(self, upper: Node[Home], lower: Node[Home]) -> None:
        home = upper.payload
        if isinstance(home, PathBuffer):
            home.nodes.add(upper)
        elif home is not None:  # copies, so that evicting one half frees its memory
            upper.payload, lower.payload = home[: len(upper.ids)].compact(), home[len(upper.ids) :].compact()

    def _end(self, lease: Lease) -> None:
        path = lease.nodes[-1].path if lease.nodes else []  # longer than at first where a node was split meanwhile
        for node in path:
            node.leases -= 1
        for home, stop in lease.reads:
            home.readers.remove(stop)
        if lease.line.base and isinstance(lease.line.buffer, Branch):
            lease.line.buffer.share(())
        self._lines.settle(lease.line)
        tree = self._trees.get(lease.space)
        if path and tree is not None and path[0].parent is tree.root:  # the store was not cleared meanwhile
            self._leaves.add(path[-1])
        self._evict()

    def _evict(self) -> None:
        """Give back slack, then let leaves go, the least recently used first, until the limit is kept."""
        if self.nbytes > self.limit:
            self._lines.fit()
        while self.nbytes > self.limit:
            node = self._least_worth() if len(self._checkpoints) else self._leaves.pop()
            if node is None:
                return
            if node.children:
                self._drop_checkpoint(node)
            else:
                self._drop(node)

    def _least_worth(self) -> Node[Home] | None:
        """Return what is worth least where there are checkpoints; None if nothing may go."""
        hung = self._checkpoints
        found = [node for tree in self._trees.values() for node in tree.nodes() if hung.may_go(node)]
        worths = [hung.candidate(node, own_bytes(node)) for node in found]
        return found[least_worth(worths, self.alpha)] if found else None

    def _hang(self, tree: RadixTree[Home], ids: Sequence[int], checkpoint: StateCheckpoint) -> None:
        states = checkpoint.states
        if not states.at or states.at > len(ids):
            return
        node = tree.match(ids[: states.at])[-1]
        if node.stop == states.at and self._checkpoints.put(node, checkpoint):
            self._emit(Stored(tokens=0, nbytes=states.nbytes, tier=self.name))

    def _drop_checkpoint(self, node: Node[Home]) -> None:
        """Forget the states behind ``node``; its K/V stay for the tokens after it."""
        nbytes = self._checkpoints.bytes_of(node)
        self._checkpoints.drop(node)
        self.counts.evictions += 1
        self._emit(Evicted(tokens=0, nbytes=nbytes, tier=self.name))

    def _drop(self, leaf: Node[Home]) -> None:
        home, nbytes = leaf.payload, own_bytes(leaf) + self._checkpoints.bytes_of(leaf)
        parent = RadixTree.remove(leaf)
        self._checkpoints.drop(leaf)
        self._leaves.discard(leaf)
        if parent.parent is not None:
            self._leaves.add(parent)
        self.counts.evictions += 1
        self._emit(Evicted(tokens=len(leaf.ids), nbytes=nbytes, tier=self.name))
        if isinstance(home, KV):
            self._tails -= home.nbytes
        elif home is not None:
            home.nodes.discard(leaf)
            self._lines.shrink(home)

    def _emit(self, event: Stored | Evicted) -> None:
        if self.bus.heard:
            self.bus.emit(event)
