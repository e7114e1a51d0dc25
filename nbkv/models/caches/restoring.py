"""A cache that keeps K and V of the newest tokens only; those of older ones are there while their layer runs.

When a layer is about to run it is *opened*: one buffer for all tokens, into which the kept ones are moved and the older
ones are restored, by whoever drives the layers. The layer's own update then adds the new tokens, what has become old
leaves, and the buffer lives only as long as the attention that reads it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.kv import allocate
from nbkv.models.caches.base import SequenceCache, kv_nbytes
from nbkv.models.capture import Captured, Sides


class Keeper(Protocol):
    """Takes what leaves."""

    def add(self, rows: torch.Tensor, /) -> None:
        """Keep ``rows`` ``[..., n, D]`` behind those that came before."""


class RestoringLayer(DynamicLayer):
    """K and V of one layer: ``window`` of the newest tokens, behind ``old`` ones that are held in another form."""

    def __init__(self, cache: RestoringCache) -> None:
        """Start empty."""
        self._cache = weakref.proxy(cache)  # memory is freed when the cache is let go, not when garbage is collected
        self.window: Sides | None = None
        self.whole: Sides | None = None
        self.old = self._opened = 0
        self.keeps_all = False
        self.leaving: tuple[Keeper, Keeper] | None = None
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def keys(self) -> torch.Tensor | None:
        """Return the kept keys ``[1, H, w, D]``."""
        return None if self.window is None else self.window[0]

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        assert keys is None  # noqa: S101  (transformers empties a new layer, nothing else may be put here)

    @property
    def values(self) -> torch.Tensor | None:
        """Return the kept values ``[1, H, w, D]``."""
        return None if self.window is None else self.window[1]

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        assert values is None  # noqa: S101  (as above)

    @property
    def length(self) -> int:
        """Return the number of tokens: kept and older ones."""
        return self.old + (0 if self.window is None else self.window[0].shape[-2])

    @property
    def nbytes(self) -> int:
        """Return the bytes of the storages behind window and open buffer."""
        return storage_bytes(*(self.window or ()), *(self.whole or ()))

    def open(self, more: int) -> None:
        """Make the buffer for all tokens and ``more`` new ones, and move the kept ones there; the rest is garbage."""
        if self.window is None:
            return
        total, old = self.length + more, self.old
        keys, values = (_buffer(side, total) for side in self.window)
        for mine, kept in zip((keys, values), self.window, strict=True):
            mine[:, :, old : self.length] = kept
        self.window = (self.window[0][:, :, :0].clone(), self.window[1][:, :, :0].clone())
        self.whole = (keys, values)
        self._opened = total

    def span(self, start: int, stop: int) -> Sides:
        """Return the places ``[1, H, n, D]`` of tokens ``[start, stop)`` in the open buffer."""
        assert self.whole is not None  # noqa: S101
        return self.whole[0][:, :, start:stop], self.whole[1][:, :, start:stop]

    def restore(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put K and V ``[1, H, n, D]`` of older tokens from position ``start`` on into the open buffer."""
        for mine, given in zip(self.span(start, start + keys.shape[-2]), (keys, values), strict=True):
            mine.copy_(given)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401, ARG002  (what families pass along differs; none of it is needed)
        **kwargs: Any,  # noqa: ANN401, ARG002  (as transformers calls a cache)
    ) -> Sides:
        """Take the states ``[1, H, n, D]``: of older tokens that are run again, or else of new ones.

        Return the keys and values these rows attend to; raise ``Captured`` where only K and V are wanted.
        """
        cache, given = self._cache, (key_states, value_states)
        if cache.capturing:
            raise Captured(given)
        if cache.begin is None:
            return self._append(given)
        cache.sample(self, *given)
        self.restore(cache.begin, *given)
        assert self.whole is not None  # noqa: S101
        stop = cache.begin + key_states.shape[-2]
        return self.whole[0][:, :, :stop], self.whole[1][:, :, :stop]

    def _append(self, given: Sides) -> Sides:
        n = given[0].shape[-2]
        self.is_initialized = True
        if self.whole is None and self.window is not None and self.length:
            self.open(n)
        had = 0 if self.whole is None else self._opened - n
        if self.whole is None:
            whole = given
        else:
            self.restore(had, *given)
            whole = self.whole
        self._cache.sample(self, *given)
        total = had + n
        kept = total - self.old if self.keeps_all else min(self._cache.room(total), total - self.old)
        if self.leaving is not None and total - kept > self.old:
            for keeper, side in zip(self.leaving, whole, strict=True):
                keeper.add(side[:, :, self.old : total - kept])
        self.window = (_own(whole[0], kept), _own(whole[1], kept))
        self.old, self.whole = total - kept, None
        self._cache.sample(self, *whole, *given)
        return whole

    def copy_from(self, other: RestoringLayer) -> None:
        """Know what ``other`` knows, in memory of its own."""
        self.old, self.is_initialized = other.old, other.is_initialized
        self.window = None if other.window is None else (other.window[0].clone(), other.window[1].clone())

    def get_seq_length(self) -> int:
        """Return the number of tokens before those that run now."""
        return self.length if self._cache.begin is None else self._cache.begin

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        if self.window is None or length >= self.length:
            return
        kept = max(0, length - self.old)
        self.window = (self.window[0][:, :, :kept].clone(), self.window[1][:, :, :kept].clone())
        self.old = min(self.old, length)


class RestoringCache(SequenceCache, Cache):
    """One ``RestoringLayer`` for each layer; ``room(total)`` tells how many of ``total`` tokens keep K and V.

    ``peak`` is the most bytes of K and V, and of what is ``beside`` them to restore others, seen at any sampling: at
    every update of every layer, with the states that come in.
    """

    layers: list[RestoringLayer]  # type: ignore[assignment]  # the parent allows any kind of layer

    def __init__(self, n_layers: int, room: Callable[[int], int]) -> None:
        """Start with ``n_layers`` empty layers."""
        super().__init__(layers=[RestoringLayer(self) for _ in range(n_layers)])
        self.room = room
        self.beside: Callable[[], int] = int
        self.begin: int | None = None
        self.capturing = False
        self.peak = 0

    @property
    def length(self) -> int:
        """Return the number of tokens that every layer with K and V knows."""
        return min((layer.length for layer in self.layers if layer.window is not None), default=0)

    @property
    def old(self) -> int:
        """Return the number of tokens whose K and V some layer lacks."""
        return max(layer.old for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Return the bytes of K and V held now."""
        return sum(layer.nbytes for layer in self.layers)

    def held_bytes(self) -> int:
        """Return the bytes of the K and V that the newest tokens keep."""
        return kv_nbytes(self.layers)

    def restorable_bytes(self) -> int:
        """Return the bytes of what older K and V are restored from."""
        return self.beside()

    def peak_bytes(self) -> int:
        """Return ``peak``."""
        return self.peak

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on in every layer."""
        for layer in self.layers:
            layer.truncate(length)

    def sample(self, layer: RestoringLayer, *passing: torch.Tensor) -> None:
        """Look at the memory in use now: all layers, ``passing`` states of ``layer``, what is beside."""
        mine = storage_bytes(*(layer.window or ()), *(layer.whole or ()), *passing)
        others = sum(other.nbytes for other in self.layers if other is not layer)
        self.peak = max(self.peak, mine + others + self.beside())

    @contextmanager
    def again(self, begin: int, *, capture: bool = False) -> Iterator[None]:
        """Within the block, layers are given older tokens from ``begin`` on; to ``capture`` is to stop at their K/V."""
        self.begin, self.capturing = begin, capture
        try:
            yield
        finally:
            self.begin, self.capturing = None, False


def _own(side: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the last ``kept`` tokens in memory that holds nothing else."""
    last = side[:, :, side.shape[-2] - kept :]
    return last if storage_bytes(side) == last.numel() * last.element_size() else last.clone()


def storage_bytes(*tensors: torch.Tensor) -> int:
    """Return the bytes of the storages behind ``tensors``, each counted once."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def _buffer(like: torch.Tensor, room: int) -> torch.Tensor:
    return allocate(*like.shape[:2], room, like.shape[-1], dtype=like.dtype, device=like.device)
