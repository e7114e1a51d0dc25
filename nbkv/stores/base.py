"""The ``Store`` protocol, and what its users hold of a store: a buffer, a lease, a session's scratch space."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nbkv.kv import KV, Space
from nbkv.show.units import plural, size
from nbkv.stores.snapshots.base import FoundSnapshot, Snapshots
from nbkv.stores.state_checkpoints import StateCheckpoint

if TYPE_CHECKING:
    import pandas as pd


class Buffer(Protocol):
    """K/V of the tokens ``[base, length)`` of one sequence, layer by layer, which a model can append to.

    ``nbkv.models.caches.growing.GrowingCache`` is one. All positions are absolute positions in the sequence.
    """

    @property
    def base(self) -> int:
        """Return the position of its first token: 0, except in a branch, which reads ``[0, base)`` elsewhere."""

    @property
    def length(self) -> int:
        """Return the position behind the last token that every layer holds."""

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated, used or not."""

    def truncate(self, length: int) -> None:
        """Drop the tokens at position ``length`` and behind it."""

    def read(self, start: int, stop: int) -> KV:
        """Return K/V of the tokens ``[start, stop)``: views where they are the buffer's own."""

    def write(self, start: int, kv: KV) -> None:
        """Copy ``kv`` to the positions ``[start, start + kv.length)``."""

    def expect(self, start: int, like: KV, need: Callable[[int], None]) -> None:
        """Count tokens of the kind of ``like`` in from ``start`` on, which are written there later, a layer at a time.

        ``need(layer)``, which waits until they are, is called before a layer is used, until ``arrived``.
        """

    def arrived(self) -> None:
        """Wait for nothing any more."""

    def fit(self) -> None:
        """Free the memory allocated behind the last token."""

    def share(self, spans: Sequence[KV]) -> None:
        """Attend to ``spans``, the K/V of ``[0, base)`` in order, where they are stored; to none where it is empty.

        Raises ``ValueError`` where ``spans`` do not add up to ``base`` tokens.
        """


@dataclass
class Counts:
    """Running counts of one tier: requests that hit or missed, evictions, and faults that became misses."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    faults: int = 0


@dataclass(frozen=True)
class Keeping:
    """How K/V are kept: ``pinned`` ones are never evicted, others by ``priority``, the lowest first.

    ``ttl`` is for how many seconds (0: as long as there is room); memory has none, tiers below it have.
    """

    pinned: bool = False
    ttl: float = 0.0
    priority: int = 0


class Priority(NamedTuple):
    """Tokens ``[start, stop)`` of a sequence are evicted after those of a lower ``priority``; 0 is usual."""

    start: int
    stop: int
    priority: int


@dataclass(frozen=True)
class TierLoad:
    """``tokens`` that memory lacks and ``tier`` has, which was last read at ``rate`` bytes per second (0: unknown)."""

    tier: str
    tokens: int
    rate: float


class Arrival(Protocol):
    """Tokens that a lease counts as matched already and that are still on their way into its buffer."""

    def settle(self) -> bool:
        """Wait for all of them; return whether they came. If not, the lease was cut back to what did, and says so."""

    def cancel(self) -> None:
        """Have nothing more written, and cut the lease back to what was there before."""


@dataclass(eq=False)
class Lease:
    """A buffer that one request may write, until it is given back or discarded.

    The buffer holds the first ``matched`` tokens of the request already (the prefix hit). ``known`` tokens are in the
    store, of which ``branch`` lie within the limit that the request set. Of a model with recurrent layers ``matched``
    is the position of the last ``checkpoint`` among those, and ``made`` are the checkpoints that the request's own
    prefill left. ``copied`` counts the tokens whose K/V had to be copied for this lease. ``too_large`` are the
    bytes that all of it takes, of a lease that was given back and did not fit. ``notes`` are what the store has to say
    about it, ``seconds`` what computing the rest took (0: not measured). ``priorities`` are those of what is given
    back, where nobody gave it others. While there is an ``arrival``, a layer of the buffer is whole once a pass needs
    it; it must be settled before anything else is done. ``waited`` are the seconds that this took.
    A ``checkpoint`` that was ``unproved`` comes from a tier: who goes on from it runs its golden token first.
    """

    space: Space
    buffer: Buffer
    matched: int = 0
    known: int = 0
    branch: int = 0
    copied: int = 0
    checkpoint: StateCheckpoint | None = None
    made: tuple[StateCheckpoint, ...] = ()
    too_large: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    priorities: tuple[Priority, ...] = ()
    unproved: FoundSnapshot | None = None
    arrival: Arrival | None = None
    waited: float = 0.0


class Scratch(dict[str, Any]):
    """What strategies keep between the requests of one session, by strategy name; no other session can reach it."""


class ScratchSpaces:
    """The scratch spaces of the sessions that use a store, for as long as those sessions live."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: list[weakref.ref[Scratch]] = []

    def add(self, scratch: Scratch) -> None:
        """Register ``scratch``, once, so that clearing the store clears it too."""
        self._known = [ref for ref in self._known if ref() is not None and ref() is not scratch]
        self._known.append(weakref.ref(scratch))

    def clear(self) -> None:
        """Empty every scratch space."""
        for ref in self._known:
            if (scratch := ref()) is not None:
                scratch.clear()


def in_short(store: Store) -> str:
    """Return what ``store`` is and holds, tier by tier, in a line."""
    tiers = [
        f"{each['tier']} {plural(int(each['entries']), 'entry', 'entries')}, {size(float(each['bytes']))}"
        for each in store.figures()
    ]
    return f"<{type(store).__name__}: {'; '.join(tiers)}>"


class Store(Protocol):
    """KV kept between requests, found by token ids: what strategies, sessions and widgets use of a store.

    Token ids are looked up from the first token of a sequence on, within one ``Space`` (model, dtype, tenant, lineage).
    A prefix is *leased*: the request appends to the buffer that holds it, then gives the lease back or discards it.
    Chunks are *read*: as views, within a ``with`` block. Every method may be called from any thread.

    """

    @property
    def name(self) -> str:
        """Return the tier that events and results report."""

    @property
    def limit(self) -> int:
        """Return the most bytes to hold in memory."""

    @property
    def scratch_spaces(self) -> ScratchSpaces:
        """Return those of the sessions that use this store."""

    @property
    def snapshots(self) -> Snapshots | None:
        """Return where snapshots outlive the process; None where memory is all there is."""

    def take(
        self,
        space: Space,
        ids: Sequence[int],
        limit: int,
        new: Callable[[], Buffer],
        *,
        states_from: int | None = None,
        branch_at: Callable[[int], Buffer] | None = None,
        layerwise: bool = False,
    ) -> Lease:
        """Lease a buffer that holds the longest known prefix of ``ids``, at most ``limit`` tokens of it.

        ``new`` makes an empty buffer. ``branch_at(base)``, of a caller that can attend to K/V stored elsewhere, makes
        one for the tokens from ``base`` on. With ``states_from`` the prefix ends at its last state checkpoint behind at
        least so many tokens, and the lease names it. With ``layerwise`` some of it may still be on its way
        (``Lease.arrival``). Every lease must be ended, by ``give`` or by ``discard``.
        """

    def give(self, lease: Lease, ids: Sequence[int], checkpoints: Sequence[StateCheckpoint] = ()) -> None:
        """End ``lease`` and keep what its buffer holds: K/V of ``ids``, counted from the sequence's first token.

        ``checkpoints`` and those that the lease has ``made`` are kept at their positions among these tokens. Afterwards
        the buffer belongs to the store. What does not fit is not kept, or not all of it: the lease says so.
        """

    def put(self, space: Space, ids: Sequence[int], start: int, kv: KV) -> int:
        """Keep ``kv``, the K/V of ``ids[start:]``; return how many tokens of it are new.

        The store copies what it keeps. Nothing is kept where tokens before ``start`` are not known.
        """

    def discard(self, lease: Lease) -> None:
        """End ``lease``; what the request wrote is dropped, what was known before stays."""

    def reading(
        self, space: Space, ids: Sequence[int], start: int = 0, *, layerwise: bool = False
    ) -> AbstractContextManager[list[tuple[int, KV]]]:
        """Give the known K/V of ``ids[start:]``, as pairs of a position and the K/V from there on, in order.

        They are contiguous from ``start`` on and end where ``ids`` are not known any more. They are views, valid within
        the ``with`` block. Counts as a hit if there are any. With ``layerwise`` a layer may be read after ``KV.need``.
        """

    def holds(self, space: Space, ids: Sequence[int]) -> int:
        """Return how many of the first tokens of ``ids`` are known in ``space``; counts neither as hit nor as miss."""

    def loads(self, space: Space, ids: Sequence[int], start: int = 0) -> list[TierLoad]:
        """Return what reading ``ids[start:]`` would have to bring to memory first, in order; nothing is read."""

    def clear(self) -> None:
        """Drop all KV and empty the scratch spaces; buffers on lease stay with their requests."""

    def keep(self, space: Space, ids: Sequence[int], how: Keeping) -> int:
        """Have the K/V of ``ids`` be kept as ``how`` says; return how many first tokens that reached."""

    def rank(self, space: Space, ids: Sequence[int], rank: float) -> None:
        """Note behind the request's back that a strategy used ``ids`` and thinks their K/V worth ``rank`` a use."""

    def flush(self) -> None:
        """Wait until what was given is where other processes find it; nothing to do in a store of memory alone."""

    def close(self) -> None:
        """Flush, and free the memory; what is stored outside the process stays there."""

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""

    @property
    def tiers(self) -> pd.DataFrame:
        """Return ``figures`` as a table, one row a tier."""

    def figures(self) -> list[dict[str, int | float | str]]:
        """Return for each tier, as plain data: its name (``tier``), counts of entries, tokens, hits, misses, evictions,
        faults and checkpoints, its ``limit`` and ``bytes``, and ``state_bytes``, those of the checkpoints among these.
        """  # noqa: D205  (one sentence)

    def ls(self) -> pd.DataFrame:
        """Return one row for each stored sequence, the most recently used first.

        Columns: ``tokens`` of the sequence, ``own_tokens`` and ``bytes`` of those it shares with no other,
        ``state_bytes`` of all checkpoints along it, ``in_buffer`` (its own tokens can be appended to in place),
        ``lineage``, ``tenant``, and ``used``, the tick of its last use.
        """
