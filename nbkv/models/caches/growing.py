"""A cache whose layers grow a preallocated buffer: appending a token copies that token and nothing else.

It is a transformers ``Cache``, so it also works inside ``generate``; besides, rows can be written at arbitrary
positions, and spans be read, written and cut off, which is what stores and strategies need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.kv import KV, allocate
from nbkv.models.capture import Captured

_STEP = 64  # capacity is a multiple of this many tokens, so that short answers do not reallocate


Pair = tuple[torch.Tensor, torch.Tensor]

# Called with the buffers of keys and values [H, capacity, D], the fresh ones [H, rows, D], and where these go [rows].
Watcher = Callable[[Pair, Pair, torch.Tensor], None]


class GrowingLayer(DynamicLayer):
    """K and V of one layer in buffers ``[B, H, capacity, D]``, of which the first ``length`` tokens are valid."""

    def __init__(self, reserve: int = 0) -> None:
        """Start empty; the first write allocates room for at least ``reserve`` tokens."""
        self._buffers: Pair | None = None
        self.length = 0
        self.reserve = reserve
        self.rows: torch.Tensor | None = None
        self.watcher: Watcher | None = None
        self.ends = False
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def keys(self) -> torch.Tensor | None:
        """Return the valid keys ``[B, H, length, D]`` as a view."""
        return None if self._buffers is None else self._buffers[0].narrow(-2, 0, self.length)

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        # transformers' own batch and beam operations assign keys, then values: both become the new buffers
        self._buffers = None if keys is None else (keys, keys if self._buffers is None else self._buffers[1])
        self.length = 0 if keys is None else keys.shape[-2]

    @property
    def values(self) -> torch.Tensor | None:
        """Return the valid values ``[B, H, length, D]`` as a view."""
        return None if self._buffers is None else self._buffers[1].narrow(-2, 0, self.length)

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        if self._buffers is not None and values is not None:
            self._buffers = (self._buffers[0], values)

    @property
    def capacity(self) -> int:
        """Return how many tokens fit without a new allocation."""
        return 0 if self._buffers is None else self._buffers[0].shape[-2]

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated, used or not."""
        return 0 if self._buffers is None else sum(b.numel() * b.element_size() for b in self._buffers)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take dtype, device and shapes from the first states and allocate."""
        self.dtype, self.device = key_states.dtype, key_states.device
        room = _rounded(max(self.reserve, key_states.shape[-2]))
        self._buffers = (_buffer(key_states, room), _buffer(value_states, room))
        self.length = 0
        self.is_initialized = True

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401, ARG002  (what families pass along differs; none of it is needed)
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> Pair:
        """Append the states ``[B, H, n, D]``, or scatter them to ``rows`` if set; return all valid keys and values."""
        if self.rows is None:
            self._append(key_states, value_states)
        else:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            rows = self.rows.to(key_states.device)
            self._room(int(rows.max()) + 1)
            keys, values = self._buffers  # type: ignore[misc]
            if self.watcher is not None:
                self.watcher((keys[0], values[0]), (key_states[0], value_states[0]), rows)
            keys.index_copy_(-2, rows, key_states)
            values.index_copy_(-2, rows, value_states)
            self.length = max(self.length, int(rows.max()) + 1)
        if self.ends:
            raise Captured((key_states, value_states))
        return self.keys, self.values  # type: ignore[return-value]

    def get_seq_length(self) -> int:
        """Return the number of valid tokens."""
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens (transformers' convention: a negative count, or 0)."""
        if tokens_to_remove > 0:
            message = f"crop takes a negative count of tokens to remove, or 0; got {tokens_to_remove}"
            raise ValueError(message)
        self.length = max(0, self.length + tokens_to_remove)

    def reset(self) -> None:
        """Forget all tokens, keep the buffers."""
        self.length = 0

    def fit(self) -> None:
        """Move the valid tokens to buffers just large enough, if that frees anything."""
        if self._buffers is not None and _rounded(self.length) < self.capacity:
            self._move(_rounded(self.length))

    def span(self, span: slice, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        """Return views ``[H, n, D]`` of ``span``, now valid, in buffers of the kind of ``keys`` and ``values``."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.cover(span.start)
        self._room(span.stop)
        self.length = max(self.length, span.stop)
        assert self._buffers is not None  # noqa: S101
        return self._buffers[0][0, :, span], self._buffers[1][0, :, span]

    def _append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        start, tokens = self.length, keys.shape[-2]
        self._room(start + tokens)
        mine_keys, mine_values = self._buffers  # type: ignore[misc]
        mine_keys.narrow(-2, start, tokens).copy_(keys)
        mine_values.narrow(-2, start, tokens).copy_(values)
        self.length = start + tokens

    def cover(self, length: int) -> None:
        """Fill up to ``length`` with zeros: what a mask hides must still be a number."""
        if self._buffers is None or length <= self.length:
            return
        self._room(length)
        for buffer in self._buffers:
            buffer[:, :, self.length : length].zero_()
        self.length = length

    def _room(self, tokens: int) -> None:
        if tokens <= self.capacity or self._buffers is None:
            return
        self._move(_rounded(max(tokens, self.reserve, 2 * self.capacity)))

    def _move(self, room: int) -> None:
        assert self._buffers is not None  # noqa: S101
        moved = tuple(_buffer(old, room) for old in self._buffers)
        for new, old in zip(moved, self._buffers, strict=True):
            new[:, :, : self.length] = old[:, :, : self.length]
        self._buffers = (moved[0], moved[1])


class GrowingCache(Cache):
    """One growing buffer per layer, all of them holding the same tokens ``[0, length)``."""

    layers: list[GrowingLayer]  # type: ignore[assignment]  # the parent allows any kind of layer
    base = 0  # the position of the first token it holds

    def __init__(self, reserve: int = 0) -> None:
        """Start empty; the first write allocates room for at least ``reserve`` tokens per layer."""
        self._reserve = reserve
        super().__init__(layer_class_to_replicate=self._new_layer)  # type: ignore[arg-type]  # called, not subclassed

    def _new_layer(self) -> GrowingLayer:
        return GrowingLayer(self._reserve)

    @property
    def length(self) -> int:
        """Return the number of tokens every layer holds."""
        return min((layer.length for layer in self.layers if layer.is_initialized), default=0)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated by all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def reserve(self, tokens: int) -> None:
        """Make the next allocation large enough for ``tokens`` tokens in all."""
        self._reserve = tokens
        for layer in self.layers:
            layer.reserve = tokens

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens in every layer, also after a pass that ended between two layers."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def fit(self) -> None:
        """Give back the memory behind the last token."""
        for layer in self.layers:
            layer.reserve = 0
            layer.fit()

    def read(self, start: int, stop: int) -> KV:
        """Return K/V of ``[start, stop)`` as views; a layer without K/V of its own gives tensors without heads."""
        empty = torch.empty(0, stop - start, 0)
        sides = [(layer.keys, layer.values) for layer in self.layers]
        return KV(
            tuple(empty if keys is None else keys[0, :, start:stop] for keys, _ in sides),
            tuple(empty if values is None else values[0, :, start:stop] for _, values in sides),
        )

    def share(self, spans: Sequence[KV]) -> None:
        """Raise ``ValueError`` for any ``spans``: only a branch attends to K/V in other buffers."""
        if spans:
            message = f"{len(spans)} spans of K/V were given to a cache that begins with its sequence: make a branch"
            raise ValueError(message)

    def extend(self, n_layers: int) -> None:
        """Have at least ``n_layers`` layers, the new ones empty."""
        while len(self.layers) < n_layers:
            self.layers.append(self._new_layer())

    def put(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put ``keys`` and ``values`` ``[H, n, D]`` of one layer at ``[start, start + n)``."""
        into = self.room(layer, start, keys, values)
        into[0].copy_(keys)
        into[1].copy_(values)

    def room(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        """Return where ``keys`` and ``values`` ``[H, n, D]`` of one layer go from ``start`` on, to be written there."""
        return self.layers[layer].span(slice(start, start + keys.shape[-2]), keys[None], values[None])

    def write(self, start: int, kv: KV) -> None:
        """Put ``kv`` at ``[start, start + kv.length)``; later tokens stay as they are, a gap before it is zeros."""
        self.extend(len(kv.keys))
        for layer, (keys, values) in enumerate(zip(kv.keys, kv.values, strict=True)):
            if keys.shape[0]:
                self.put(layer, start, keys, values)

    @contextmanager
    def writing(self, rows: torch.Tensor) -> Iterator[None]:
        """Within the block, states are scattered to positions ``rows`` ``[n]`` instead of appended."""
        try:
            for layer in self.layers:
                layer.rows = rows
            yield
        finally:
            for layer in self.layers:
                layer.rows = None

    @contextmanager
    def ending(self, layer: int) -> Iterator[None]:
        """Within the block a pass ends in ``layer``, when its K/V have been put where they belong."""
        self.extend(layer + 1)
        self.layers[layer].ends = True
        try:
            yield
        finally:
            self.layers[layer].ends = False

    @contextmanager
    def watching(self, layer: int, watcher: Watcher) -> Iterator[None]:
        """Within the block, ``watcher`` is shown what rows of ``layer`` hold before new states are scattered there."""
        self.layers[layer].watcher = watcher
        try:
            yield
        finally:
            self.layers[layer].watcher = None


class TokenLog:
    """What stands in for a cache where a family's own one cannot be trusted: the tokens so far, run again each time."""

    def __init__(self) -> None:
        """Start empty."""
        self.ids: list[torch.Tensor] = []

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        """Add ``ids`` ``[n]`` and return all tokens so far."""
        self.ids.append(ids)
        return torch.cat(self.ids)

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return sum(map(len, self.ids))

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens."""
        self.ids = [torch.cat(self.ids)[:length]] if self.ids else []


def _buffer(like: torch.Tensor, room: int) -> torch.Tensor:
    batch, heads, _, width = like.shape
    return allocate(batch, heads, room, width, dtype=like.dtype, device=like.device)


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
