"""One layer of a growing cache: K and V in a preallocated buffer that new tokens are appended or scattered to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from nbkv.kv import allocate
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
        self.need: Callable[[], None] | None = None  # waits for tokens that are counted in and still arrive
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
        **kwargs: Any,  # noqa: ANN401, ARG002  (as transformers calls a cache)
    ) -> Pair:
        """Append the states ``[B, H, n, D]``, or scatter them to ``rows`` if set; return all valid keys and values."""
        if self.need is not None:
            self.need()
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


def _buffer(like: torch.Tensor, room: int) -> torch.Tensor:
    batch, heads, _, width = like.shape
    return allocate(batch, heads, room, width, dtype=like.dtype, device=like.device)


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
