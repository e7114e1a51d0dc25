"""Many sequences in one pass: their new tokens are the rows of one, and each attends to its own sequence only.

Sequences that share their first tokens are a *bundle*: the shared K/V lie once, in pieces that every layer attends to
where they are stored, and what is a sequence's own in a slot of its own. Both parts are merged by log-sum-exp, which is
exact (Hydragen, arXiv 2402.05099; BatchLLM, arXiv 2412.03594, section 4.3). Nothing is padded but the attention of rows
of unequal lengths; all else a layer does sees as many rows as there are tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.kv import KV, allocate
from nbkv.models.attention.intercept import computed_by
from nbkv.models.attention.layer import Attention, Policy
from nbkv.models.attention.masks import edges
from nbkv.models.caches.base import SequenceCache
from nbkv.models.capabilities import Capabilities
from nbkv.ops import shared_prefix_attention

Pair = tuple[torch.Tensor, torch.Tensor]

_STEP = 16  # room is a multiple of this many tokens


class Bundle:
    """Sequences that share the K/V ``pieces`` of their first ``base`` tokens, one after another, each with a slot.

    ``lengths`` are the tokens in each slot, those behind the shared ones; slots are numbered from 0 without gaps.
    """

    def __init__(self, pieces: Sequence[KV], n_layers: int) -> None:
        """Begin without sequences."""
        self.pieces = tuple(pieces)
        self.base = sum(piece.length for piece in pieces)
        self.lengths: list[int] = []
        self._slots = self._room = 0
        self._layers: list[Pair | None] = [None] * n_layers

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated for what is not shared, used or not."""
        return sum(side.numel() * side.element_size() for pair in self._layers if pair for side in pair)

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of the shared K/V."""
        return sum(piece.nbytes for piece in self.pieces)

    def add(self) -> int:
        """Begin a sequence; return its slot."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def remove(self, slot: int) -> int:
        """End the sequence in ``slot``; the last one moves there. Return the slot that it moved from."""
        last = len(self.lengths) - 1
        if slot != last:
            length = self.lengths[slot] = self.lengths[last]
            for side in (side for pair in self._layers if pair for side in pair):
                side[slot, :, :length] = side[last, :, :length]
        self.lengths.pop()
        return last

    def reserve(self, tokens: int) -> None:
        """Have room for all present sequences, each of ``tokens`` tokens of its own at most.

        Layers move to larger memory as they are next written to, one at a time; memory that is more than twice as
        large as needed is given up.
        """
        slots, room = len(self.lengths), -(-tokens // _STEP) * _STEP
        if slots > self._slots or 2 * slots < self._slots:
            self._slots = slots
        if room > self._room or 2 * room < self._room:
            self._room = max(room, room + self._room // 4 // _STEP * _STEP if room > self._room else room)

    def written(self, layer: int, slots: torch.Tensor, at: torch.Tensor, states: Pair) -> None:
        """Put the rows of ``states`` ``[n, H, D]`` at positions ``at`` ``[n]`` of their ``slots`` ``[n]``."""
        held = self._layers[layer]
        if held is None or held[0].shape[0] != self._slots or held[0].shape[2] != self._room:
            held = self._layers[layer] = self._moved(held, states)
        for side, rows in zip(held, states, strict=True):
            side[slots, :, at] = rows

    def own(self, layer: int, slots: torch.Tensor | None, tokens: int) -> Pair:
        """Return the first ``tokens`` keys and values ``[b, H, tokens, D]`` of ``slots``; None: of all, as views."""
        held = self._layers[layer]
        assert held is not None  # noqa: S101
        keys, values = (side[: len(self.lengths), :, :tokens] for side in held)
        return (keys, values) if slots is None else (keys.index_select(0, slots), values.index_select(0, slots))

    def _moved(self, held: Pair | None, states: Pair) -> Pair:
        made = []
        for number, rows in enumerate(states):
            side = allocate(self._slots, rows.shape[1], self._room, rows.shape[2], dtype=rows.dtype, device=rows.device)
            if held is None:
                side.zero_()  # what a mask hides must still be a number
            else:
                slots, room = (min(new, old) for new, old in zip(side.shape[::2], held[number].shape[::2], strict=True))
                side[slots:].zero_()
                side[:slots, :, room:].zero_()
                side[:slots, :, :room] = held[number][:slots, :, :room]
            made.append(side)
        return made[0], made[1]


class Feed(NamedTuple):
    """New tokens of one sequence: the next ones in ``slot`` of ``bundle``."""

    bundle: Bundle
    slot: int
    ids: Sequence[int]


class SharedPass(Protocol):
    """What one pass over tokens of many sequences runs: their ``ids`` and ``positions``, all of them ``[N]``."""

    ids: torch.Tensor
    positions: torch.Tensor

    def written(self, layer: int, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Put the states ``[1, H, N, D]`` of all rows where they belong."""

    def attending(self, capabilities: Capabilities) -> Policy:
        """Return how the rows attend in each layer."""

    def done(self) -> None:
        """Take note that all rows have run."""


class _Rows(NamedTuple):
    """Sequences of one bundle that attend together, ``b`` of them over ``n`` rows; a shorter one repeats its last.

    ``rows`` ``[b, n]`` are indices among the rows of the pass, ``upper`` ``[b, n]`` how many own keys each sees,
    ``slots`` None where they are all of the bundle's, in order. ``into`` ``[m]`` are the rows without repeats, found at
    ``own`` ``[m]`` of the flat ``[b * n]``; ``own`` is None where nothing repeats.
    """

    bundle: Bundle
    rows: torch.Tensor
    upper: torch.Tensor
    slots: torch.Tensor | None
    tokens: int
    into: torch.Tensor
    own: torch.Tensor | None


@dataclass(eq=False)
class PackedPass:
    """What one pass runs: ``feeds``, of which those of one bundle stand together, as the rows of one sequence.

    ``ids`` and ``positions`` are those of all rows ``[N]``, ``last`` ``[S]`` the last row of each of the feeds.
    """

    feeds: Sequence[Feed]
    device: torch.device

    def __post_init__(self) -> None:
        """Lay the rows out."""
        bundles = dict.fromkeys(feed.bundle for feed in self.feeds)
        numbered = list(enumerate(self.feeds))
        self.bundles = {bundle: [at for at, feed in numbered if feed.bundle is bundle] for bundle in bundles}
        counts = [len(feed.ids) for feed in self.feeds]
        self.ends = torch.tensor(counts).cumsum(0)
        begins = [feed.bundle.lengths[feed.slot] for feed in self.feeds]
        within = torch.cat([torch.arange(begin, begin + n) for begin, n in zip(begins, counts, strict=True)])
        bases = torch.tensor([feed.bundle.base for feed in self.feeds]).repeat_interleave(torch.tensor(counts))
        self.within = within.to(self.device)  # of each row, its place among its sequence's own tokens
        self.positions = (within + bases).to(self.device)
        self.ids = torch.tensor([token for feed in self.feeds for token in feed.ids], device=self.device)
        self.last = (self.ends - 1).to(self.device)
        slots = torch.tensor([feed.slot for feed in self.feeds]).repeat_interleave(torch.tensor(counts))
        self.slots = slots.to(self.device)
        self.together = [rows for bundle, members in self.bundles.items() for rows in self._together(bundle, members)]
        for bundle, members in self.bundles.items():
            longest = max(begins[at] + counts[at] for at in members)
            bundle.reserve(max(longest, *bundle.lengths))

    def span(self, bundle: Bundle) -> slice:
        """Return which rows are those of ``bundle``."""
        members = self.bundles[bundle]
        start = int(self.ends[members[0]]) - len(self.feeds[members[0]].ids)
        return slice(start, int(self.ends[members[-1]]))

    def written(self, layer: int, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Hand the states ``[1, H, N, D]`` of all rows to the bundles they belong to."""
        for bundle in self.bundles:
            span = self.span(bundle)
            slots, at = (each[span].to(key_states.device) for each in (self.slots, self.within))
            states = (key_states[0, :, span].transpose(0, 1), value_states[0, :, span].transpose(0, 1))
            bundle.written(layer, slots, at, states)

    def attending(self, capabilities: Capabilities) -> Policy:
        """Return how the rows attend in each layer."""
        return _Attending(self, capabilities)

    def done(self) -> None:
        """Take note that all rows have run: only now their sequences are longer."""
        for feed in self.feeds:
            feed.bundle.lengths[feed.slot] += len(feed.ids)

    def _together(self, bundle: Bundle, members: Sequence[int]) -> Iterator[_Rows]:
        """Yield the sequences of ``bundle`` that attend together: those with at least half as many rows as the most."""
        left = sorted(members, key=lambda at: -len(self.feeds[at].ids))
        while left:
            most = len(self.feeds[left[0]].ids)
            some = sorted(at for at in left if 2 * len(self.feeds[at].ids) > most)
            left = [at for at in left if at not in set(some)]
            yield self._rows(bundle, some, most)

    def _rows(self, bundle: Bundle, some: Sequence[int], n: int) -> _Rows:
        counts = torch.tensor([len(self.feeds[at].ids) for at in some])
        first = self.ends[list(some)] - counts
        offsets = torch.minimum(torch.arange(n), counts[:, None] - 1)
        rows = (first[:, None] + offsets).to(self.device)
        upper = self.within[rows] + 1
        repeats = bool((counts < n).any())
        own = (torch.arange(n) < counts[:, None]).flatten().nonzero().flatten().to(self.device) if repeats else None
        slots = [self.feeds[at].slot for at in some]
        return _Rows(
            bundle,
            rows,
            upper,
            None if slots == list(range(len(bundle.lengths))) else torch.tensor(slots, device=self.device),
            int(upper.max()),
            rows.flatten() if own is None else rows.flatten()[own],
            own,
        )


class _PackedLayer(DynamicLayer):
    """Hands the states of a pass over to it."""

    def __init__(self, index: int, cache: PackedCache) -> None:
        self.index, self.cache = index, cache
        super().__init__()  # type: ignore[no-untyped-call]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401, ARG002  (what families pass along differs; none of it is needed)
        **kwargs: Any,  # noqa: ANN401, ARG002  (as transformers calls a cache)
    ) -> Pair:
        """Put the states ``[1, H, N, D]`` where they belong; return them as they are, for attention to look past."""
        packed = self.cache.packed
        assert packed is not None  # noqa: S101
        packed.written(self.index, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return 0: the sequences of a pass have no one length, and are told their positions."""
        return 0


class PackedCache(SequenceCache, Cache):
    """What a model is given as its cache in a pass over the sequences of several bundles."""

    layers: list[_PackedLayer]  # type: ignore[assignment]  # the parent allows any kind of layer

    def __init__(self, n_layers: int) -> None:
        """Begin without a pass."""
        self.packed: SharedPass | None = None
        super().__init__(layers=[_PackedLayer(index, self) for index in range(n_layers)])

    @contextmanager
    def running(self, packed: SharedPass, config: Any, capabilities: Capabilities) -> Iterator[None]:  # noqa: ANN401  (a transformers config)
        """Within the block a pass runs ``packed``, without a mask; its sequences are longer only if that succeeds.

        ``config`` is the text decoder's.
        """
        self.packed = packed
        try:
            with computed_by(config, packed.attending(capabilities)):
                yield
            packed.done()
        finally:
            self.packed = None


class _Attending:
    """How the rows of a pass attend in each layer; what layers have in common is made once."""

    def __init__(self, packed: PackedPass, capabilities: Capabilities) -> None:
        self._packed, self._capabilities = packed, capabilities
        self._lower: dict[tuple[int, int | None, int | None], tuple[int, torch.Tensor | None]] = {}

    def __call__(self, seen: Attention) -> torch.Tensor:
        """Return the output ``[1, H_q, N, D_v]`` of all rows."""
        out = seen.query.new_empty(*seen.query.shape[:3], seen.value.shape[-1])
        for number, rows in enumerate(self._packed.together):
            out[0].index_copy_(1, rows.into.to(out.device), self._attend(number, rows, seen))
        return out

    def _attend(self, number: int, rows: _Rows, seen: Attention) -> torch.Tensor:
        """Return the output ``[H_q, m, D_v]`` of one set of rows, without repeats."""
        device = seen.query.device
        first, lower = self._reach(number, rows, seen)
        query = seen.query[0].index_select(1, rows.rows.flatten().to(device))
        query = query.unflatten(1, rows.rows.shape).transpose(0, 1)
        own = rows.bundle.own(seen.layer, None if rows.slots is None else rows.slots.to(device), rows.tokens)
        given = shared_prefix_attention(
            query,
            list(pieces_from(rows.bundle.pieces, first, seen.layer)),
            own,
            rows.upper.to(device),
            None if lower is None else lower.to(device),
            scale=seen.scale,
            softcap=seen.softcap,
            sinks=seen.sinks,
        )[0]
        flat = given.transpose(0, 1).flatten(1, 2)
        return flat if rows.own is None else flat.index_select(1, rows.own.to(device))

    def _reach(self, number: int, rows: _Rows, seen: Attention) -> tuple[int, torch.Tensor | None]:
        """Return the first shared key that any of ``rows`` sees, and counted from there the first that each sees."""
        key = (number, *self._capabilities.reach(seen.layer))
        if key not in self._lower:
            lower, _ = edges(self._packed.positions[rows.rows.flatten()], *key[1:])
            first = min(int(lower.min()), rows.bundle.base)
            lower = (lower - first).view(rows.rows.shape)
            self._lower[key] = first, lower if bool(lower.any()) else None
        return self._lower[key]


def pieces_from(pieces: Sequence[KV], first: int, layer: int) -> Iterator[Pair]:
    """Yield the keys and values of ``layer`` from position ``first`` on."""
    at = 0
    for piece in pieces:
        cut = slice(max(0, first - at), None)
        at += piece.length
        if at > first:
            yield piece.keys[layer][:, cut], piece.values[layer][:, cut]
