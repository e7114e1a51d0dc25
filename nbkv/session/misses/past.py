"""What sessions of this process have computed, and what left their stores: ids and counts, no tensors, bounded.

All sessions share one past, so that a miss can be put down to another dtype, adapter or store; nothing of it is
written anywhere. A tenant is given its own past alone. Of others it learns one thing, which it must know already to
learn it: that a prompt of somebody else's is, whole, the beginning of its own. A part of one is never told: whoever may
ask how many first tokens are another's could find out the rest token by token.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from nbkv.events import Event, Evicted, Started
from nbkv.kv import Space
from nbkv.prompts.matching import common_prefix, rolling_hashes
from nbkv.stores.base import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = "chunk "  # what is said of one begins so
WINDOW = 8  # tokens of the shortest run that is taken for the same text at another place
_SEQUENCES, _TOKENS, _DEPARTURES = 512, 4_000_000, 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """One sequence that a session computed: its ``ids``, of which the first ``prompt`` were given, the rest decoded.

    ``by`` says what it was, as people call it. ``lost`` is why its K/V were not kept; empty where they were. ``said``
    are the texts of the prompt's messages, where a chat template wrote the rest (None: all of it was given).
    """

    order: int
    ids: tuple[int, ...]
    prompt: int
    space: Space
    store: weakref.ref[Store]
    session: str
    by: str
    lost: str = ""
    said: tuple[str, ...] | None = None

    @property
    def is_chunk(self) -> bool:
        """Return whether it was a chunk, encoded apart, rather than a request."""
        return self.by.startswith(CHUNK)

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """Return the ids as an array."""
        return np.array(self.ids, dtype=np.int64)

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Return the hashes of its windows."""
        return rolling_hashes(self.array, WINDOW)


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Tokens ``[start, start + tokens)`` of a stored sequence left a ``tier``, ``during`` what ``tenant`` did."""

    order: int
    store: weakref.ref[Store]
    start: int
    tokens: int
    digest: int
    tier: str
    during: str
    tenant: str

    def was_part_of(self, seen: Seen) -> bool:
        """Return whether the tokens that left are those of ``seen``."""
        path = seen.space.path(seen.ids)
        return hash(tuple(path[self.start : self.start + self.tokens])) == self.digest


class Past:
    """The newest sequences and departures, in one order; any thread may add to it."""

    def __init__(self, sequences: int = _SEQUENCES, tokens: int = _TOKENS, departures: int = _DEPARTURES) -> None:
        """Start empty, for at most so many ``sequences`` of so many ``tokens`` together."""
        self._seen: deque[Seen] = deque(maxlen=sequences)
        self._departed: deque[Departure] = deque(maxlen=departures)
        self._limit, self._tokens = tokens, 0
        self._numbers = count(1)

    def number(self) -> int:
        """Return the next number of the common order."""
        return next(self._numbers)

    def add(self, seen: Seen) -> None:
        """Remember a sequence; the oldest are forgotten."""
        if len(self._seen) == self._seen.maxlen:
            self._tokens -= len(self._seen[0].ids)
        self._seen.append(seen)
        self._tokens += len(seen.ids)
        while self._tokens > self._limit and len(self._seen) > 1:
            self._tokens -= len(self._seen.popleft().ids)

    def depart(self, departure: Departure) -> None:
        """Remember what left a store."""
        self._departed.append(departure)

    def before(self, order: int, tenant: str) -> list[Seen]:
        """Return the sequences of ``tenant`` from before ``order``, the newest first."""
        known = reversed(tuple(self._seen))
        return [seen for seen in known if seen.order < order and seen.space.tenant == tenant]

    def prompt_of_others(self, ids: NDArray[np.int64], order: int, space: Space) -> int:
        """Return the length of the longest prompt of another tenant, from before ``order``, that ``ids`` begin with.

        Only whole prompts count, of at least ``WINDOW`` tokens and of ``space`` but for the tenant; 0: there is none.
        """
        others = (seen for seen in tuple(self._seen) if seen.order < order and seen.space.tenant != space.tenant)
        like = (seen for seen in others if replace(seen.space, tenant=space.tenant) == space)
        whole = (each.prompt for each in like if common_prefix(ids, each.array) >= each.prompt >= WINDOW)
        return max(whole, default=0)

    def departures(self, seen: Seen, order: int) -> list[Departure]:
        """Return what left of ``seen``, between its own time and ``order``, from its store; the newest first."""
        return [
            each
            for each in reversed(tuple(self._departed))
            if seen.order < each.order < order and each.store == seen.store and each.was_part_of(seen)
        ]


class Leavers:
    """Hears one session's events and remembers what leaves its store, and ``during`` which request or chunk."""

    def __init__(self, past: Past, store: Store, tenant: str) -> None:
        """Begin with a store as it is, and the tenant of the session."""
        self._past, self.store, self._tenant = past, weakref.ref(store), tenant
        self.during = ""

    def __call__(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, Evicted):
            self._left(event)
        elif isinstance(event, Started):
            self.during = f"request {event.request} of {event.session}"

    def _left(self, event: Evicted) -> None:
        if event.digest is not None:
            self._past.depart(
                Departure(
                    order=self._past.number(),
                    store=self.store,
                    start=event.start,
                    tokens=event.tokens,
                    digest=event.digest,
                    tier=event.tier,
                    during=self.during,
                    tenant=self._tenant,
                )
            )


def overlaps(spans: Sequence[tuple[int, int]], start: int, stop: int) -> bool:
    """Return whether any of ``spans`` has a token of ``[start, stop)``."""
    return any(begin < stop and end > start for begin, end in spans)


past = Past()
