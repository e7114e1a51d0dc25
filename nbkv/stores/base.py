"""What a store keeps K/V in: a *line*, one contiguous buffer that a model can go on writing, and who lives in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nbkv.kv import KV, Space
from nbkv.stores.radix import Node
from nbkv.stores.scratch import ScratchSpaces
from nbkv.stores.state_checkpoints import StateCheckpoint

if TYPE_CHECKING:
    import pandas as pd


class Buffer(Protocol):
    """The tokens ``[base, length)`` of one sequence, layer by layer, as ``GrowingCache`` holds them."""

    @property
    def base(self) -> int:
        """Return the position of its first token: 0, except in a branch."""

    @property
    def length(self) -> int:
        """Return behind which position of the sequence every layer ends."""

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


@runtime_checkable
class Branch(Buffer, Protocol):
    """A buffer without the first ``base`` tokens, which are read where they live."""

    def share(self, pieces: Sequence[KV]) -> None:
        """Read ``[0, base)`` from ``pieces``, one after another; from nowhere where there are none."""


@dataclass(eq=False)
class PathBuffer:
    """A buffer and the tree nodes that live in it.

    Invariant: for each of its nodes the buffer holds the K/V of the path to that node, from the buffer's base on, so
    the nodes of a line lie on one path. A node of the path may live elsewhere: then the line holds a copy of it.
    ``readers`` are the ends of what branches on lease read here: up to there nothing may be written.
    """

    buffer: Buffer
    nodes: set[Node[Home]] = field(default_factory=set)
    leased: bool = False
    readers: list[int] = field(default_factory=list)

    @property
    def base(self) -> int:
        """Return the position of the buffer's first token."""
        return self.buffer.base

    @property
    def read_to(self) -> int:
        """Return up to where branches on lease read in the buffer."""
        return max(self.readers, default=0)

    @property
    def needed(self) -> int:
        """Return how many tokens of the buffer its nodes need."""
        return max((node.stop for node in self.nodes), default=0)


Home = PathBuffer | KV


@dataclass
class Counts:
    """Running figures of one tier: requests that found something or nothing, and nodes that had to leave."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass(eq=False)
class Lease:
    """A line held for one request; ``matched`` is how many of the request's first tokens it already holds.

    ``known`` is how many the store knows; ``branch`` how many of those it was asked for. Where a request goes on from
    states, ``matched`` is the last position with a ``checkpoint`` among them; ``made`` are those it made on the way.
    ``reads`` says in which lines a branch reads, and up to where.
    """

    space: Space
    line: PathBuffer
    matched: int
    known: int
    nodes: list[Node[Home]]
    copied: int
    branch: int = 0
    checkpoint: StateCheckpoint | None = None
    made: tuple[StateCheckpoint, ...] = ()
    reads: tuple[tuple[PathBuffer, int], ...] = ()


class Store(Protocol):
    """Where KV is kept between requests, as strategies and sessions see it.

    A prefix is *leased*: the request goes on writing the very buffer that holds it, and gives it back or has what it
    wrote discarded. Chunks are *read*: views of their KV, for the length of a ``with`` block. ``limit`` and ``nbytes``
    are bytes; ``name`` is the tier that events and results name.
    """

    name: str
    limit: int
    scratch_spaces: ScratchSpaces

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
        """Lease a buffer that holds the longest known prefix of ``ids``, at most ``limit`` tokens of it."""

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """Keep what the leased buffer now holds, ``ids`` from the first token on, and end the lease."""

    def discard(self, lease: Lease) -> None:
        """Forget what the request wrote, keep what was there before, and end the lease."""

    def reading(self, space: Space, ids: Sequence[int], start: int = 0) -> AbstractContextManager[list[tuple[int, KV]]]:
        """Give views of what is known of ``ids[start:]`` from its beginning on: pieces of KV and where each begins."""

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` are known in ``space``."""

    def clear(self) -> None:
        """Forget everything, scratch spaces included."""

    def close(self) -> None:
        """Free the memory; what lives elsewhere stays there."""

    @property
    def nbytes(self) -> int:
        """Return the bytes held."""

    @property
    def tiers(self) -> pd.DataFrame:
        """Return one row a tier, as ``figures`` has them."""

    def figures(self) -> list[dict[str, int | str]]:
        """Return for each tier: entries, tokens, bytes, limit, hits, misses, evictions, as plain data."""

    def ls(self) -> pd.DataFrame:
        """Return one row for each stored sequence, the most recently used first."""
