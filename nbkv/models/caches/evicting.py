"""A cache that holds some tokens of a sequence only: each layer and head its own, at their true positions.

A *slot* holds one token's K and V for one head. Keys stay rotated for their true position, and rows attend to
slots by true position, so dropping a token changes nothing but that no row attends to it any more. What is
dropped is freed: buffers are made anew, just large enough, and never larger than ``limit`` slots unless
more than that must be held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.kv import allocate
from nbkv.models.caches.base import SequenceCache, kv_nbytes

_STEP = 32  # slots by which a buffer grows, so that not every token allocates
UNBOUNDED = 2**62


class ByteTally:
    """Bytes of K/V allocated ``now`` by the layers of one cache, and the most at any moment (``peak``)."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.now = self.peak = 0

    def add(self, nbytes: int) -> None:
        """Count ``nbytes`` more, or fewer."""
        self.now += nbytes
        self.peak = max(self.peak, self.now)


class EvictingLayer(DynamicLayer):
    """Slots of one layer: K and V ``[1, H, T, D]``, their ``positions`` ``[H, T]`` and whatever else is noted of them.

    ``index`` is the layer's; ``seen`` is how many tokens have come by, kept or not: the next one's position. ``limit``
    bounds the buffers.
    """

    def __init__(self, tally: ByteTally, index: int = 0) -> None:
        """Start empty."""
        self.tally, self.index = tally, index
        self.length = self.seen = 0
        self.limit = UNBOUNDED
        self._sides: tuple[torch.Tensor, torch.Tensor] | None = None
        self._marks: dict[str, torch.Tensor] = {}
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def keys(self) -> torch.Tensor | None:
        """Return the keys ``[1, H, T, D]`` as a view."""
        return None if self._sides is None else self._sides[0][:, :, : self.length]

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        """Take none: only the parent's constructor assigns."""

    @property
    def values(self) -> torch.Tensor | None:
        """Return the values ``[1, H, T, D]`` as a view."""
        return None if self._sides is None else self._sides[1][:, :, : self.length]

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        """Take none, as for ``keys``."""

    @property
    def positions(self) -> torch.Tensor:
        """Return the true position of every slot, int32 ``[H, T]``."""
        return self.mark("position", torch.int32)

    @property
    def capacity(self) -> int:
        """Return how many slots fit into the buffers."""
        return 0 if self._sides is None else self._sides[0].shape[-2]

    @property
    def nbytes(self) -> int:
        """Return the bytes of K and V that are allocated."""
        return 0 if self._sides is None else sum(side.untyped_storage().nbytes() for side in self._sides)

    def mark(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return what is noted as ``name`` of every slot, ``[H, T]`` as a view to write to; 0 for new slots."""
        if name not in self._marks:
            assert self._sides is not None  # noqa: S101
            _, heads, capacity, _ = self._sides[0].shape
            self._marks[name] = allocate(heads, capacity, dtype=dtype, device=self._sides[0].device).zero_()
        return self._marks[name][:, : self.length]

    def get_seq_length(self) -> int:
        """Return how many tokens have come by: what families count positions from."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many slots there are once ``query_length`` tokens are added, and the first one's index."""
        return self.length + query_length, 0

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401, ARG002  (what families pass along differs; none of it is needed)
        **kwargs: Any,  # noqa: ANN401, ARG002  (as transformers calls a cache)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add slots for the next tokens' states ``[1, H, n, D]``; return keys and values of all slots."""
        n = key_states.shape[-2]
        self._room(self.length + n, key_states, value_states)
        assert self._sides is not None  # noqa: S101
        added = slice(self.length, self.length + n)
        for side, states in zip(self._sides, (key_states, value_states), strict=True):
            side[:, :, added] = states
        self.length += n
        for marks in self._marks.values():
            marks[:, added] = 0
        self.positions[:, added] = torch.arange(self.seen, self.seen + n, device=key_states.device, dtype=torch.int32)
        self.seen += n
        return self.keys, self.values  # type: ignore[return-value]

    def keep(self, slots: torch.Tensor) -> None:
        """Keep the ``slots`` ``[H, m]`` (indices) of each head, and free the memory of the others."""
        m = slots.shape[-1]
        self._move(max(m, min(m + _STEP, self.limit)), slots)
        self.length = m

    def drop(self, slots: torch.Tensor) -> None:
        """Drop one slot ``[H]`` (an index) of each head; the last one takes its place in the same buffers."""
        assert self._sides is not None  # noqa: S101
        heads, last = torch.arange(len(slots), device=slots.device), self.length - 1
        for side in self._sides:
            side[0, heads, slots] = side[0, :, last].clone()
        for marks in self._marks.values():
            marks[heads, slots] = marks[:, last].clone()
        self.length = last

    def forget(self, n: int) -> None:
        """Forget the last ``n`` tokens as if they had never come by; none of them may have been dropped."""
        self.length -= n
        self.seen -= n

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that is held, by name, as views: ``k`` and ``v`` ``[H, T, D]``, and each mark ``[H, T]``."""
        assert self.keys is not None  # noqa: S101
        assert self.values is not None  # noqa: S101
        return {"k": self.keys[0], "v": self.values[0], "position": self.positions} | {
            name: self.mark(name) for name in self._marks
        }

    def fill(self, tensors: Mapping[str, torch.Tensor], seen: int, device: str) -> None:
        """Hold copies of ``tensors``, as ``tensors()`` gave them after ``seen`` tokens, on ``device``; empty so far."""
        keys, values = (tensors[side][None].to(device) for side in ("k", "v"))
        self.update(keys, values)
        for name, mark in tensors.items():
            if name not in {"k", "v"}:
                self.mark(name, mark.dtype).copy_(mark)
        self.seen = seen

    def copy(self, tally: ByteTally) -> EvictingLayer:
        """Return a layer of its own memory that holds the same."""
        twin = EvictingLayer(tally, self.index)
        twin.length, twin.seen, twin.limit = self.length, self.seen, self.limit
        if self._sides is not None:
            twin.is_initialized, twin.dtype, twin.device = True, self.dtype, self.device
            twin._sides, twin._marks = self._sides, dict(self._marks)
            tally.add(self.nbytes)  # what _move subtracts for the buffers it believes to be replacing
            twin._move(self.length, None)
        return twin

    def _room(self, slots: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if self._sides is None:
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            room = max(slots, min(slots + _STEP, self.limit))
            self._sides = (_buffer(keys, room), _buffer(values, room))
            self.tally.add(self.nbytes)
        elif slots > self.capacity:
            self._move(max(slots, min(slots + _STEP, self.limit)), None)

    def _move(self, room: int, slots: torch.Tensor | None) -> None:
        """Move to buffers of ``room`` slots, with those ``slots`` ``[H, m]`` (None: all) of each head."""
        assert self._sides is not None  # noqa: S101
        moved: list[torch.Tensor] = []
        for side in self._sides:
            new = _buffer(side, room)
            self.tally.add(new.untyped_storage().nbytes())
            if slots is None:
                new[:, :, : self.length] = side[:, :, : self.length]
            else:
                where = slots[None, :, :, None].expand(-1, -1, -1, side.shape[-1])
                torch.gather(side, 2, where, out=new[:, :, : slots.shape[-1]])
            moved.append(new)
        self.tally.add(-self.nbytes)
        self._sides = (moved[0], moved[1])
        for name, marks in self._marks.items():
            held = marks[:, : self.length] if slots is None else marks.gather(1, slots)
            self._marks[name] = allocate(len(held), room, dtype=held.dtype, device=held.device).zero_()
            self._marks[name][:, : held.shape[-1]] = held


class EvictingCache(SequenceCache, Cache):
    """One ``EvictingLayer`` for each layer; all have seen the same tokens, and each holds its own choice of them."""

    layers: list[EvictingLayer]  # type: ignore[assignment]  # the parent allows any kind of layer

    def __init__(self, n_layers: int) -> None:
        """Start empty."""
        self._tally = ByteTally()
        super().__init__(layers=[EvictingLayer(self._tally, index) for index in range(n_layers)])

    @property
    def seen(self) -> int:
        """Return how many tokens have been through every layer."""
        return min(layer.seen for layer in self.layers)

    @property
    def complete(self) -> bool:
        """Return whether all layers have seen the same tokens: not after a pass that ended between two of them."""
        return all(layer.seen == self.seen for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Return the bytes of K and V that are allocated."""
        return self._tally.now

    @property
    def peak(self) -> int:
        """Return the most bytes of K and V that were allocated at any moment, while buffers were moved included."""
        return self._tally.peak

    def held_bytes(self) -> int:
        """Return the bytes of the keys and values in all slots."""
        return kv_nbytes(self.layers)

    def peak_bytes(self) -> int:
        """Return ``peak``."""
        return self.peak

    def forget(self, n: int) -> None:
        """Forget the last ``n`` tokens, which no layer has dropped, as if they had never come by."""
        for layer in self.layers:
            layer.forget(n)

    def tensors(self) -> list[dict[str, torch.Tensor]]:
        """Return all that each layer holds, by name, as views."""
        return [layer.tensors() for layer in self.layers]

    @classmethod
    def of(cls, layers: Sequence[Mapping[str, torch.Tensor]], seen: int, devices: Sequence[str]) -> EvictingCache:
        """Return a cache that holds ``layers``, as ``tensors`` gave them after ``seen`` tokens, each on its device."""
        made = cls(len(layers))
        for layer, tensors, device in zip(made.layers, layers, devices, strict=True):
            layer.fill(tensors, seen, device)
        return made

    def copy(self) -> EvictingCache:
        """Return a cache of its own memory that holds the same."""
        twin = EvictingCache(0)
        twin.layers = [layer.copy(twin._tally) for layer in self.layers]
        return twin

    def kept(self, n: int) -> torch.Tensor:
        """Return bool ``[n]``: which of the first ``n`` positions any head of any layer still holds."""
        held = torch.zeros(n, dtype=torch.bool)
        for layer in self.layers:
            positions = layer.positions.flatten().long().cpu()
            held[positions[positions < n]] = True
        return held

    def share(self) -> float:
        """Return how many slots there are, as a share of what all layers would hold of all tokens."""
        return sum(layer.length for layer in self.layers) / max(1, self.seen * len(self.layers))


def _buffer(like: torch.Tensor, room: int) -> torch.Tensor:
    return allocate(*like.shape[:2], room, like.shape[-1], dtype=like.dtype, device=like.device)
