"""A cache whose layers grow a preallocated buffer: appending a token copies that token and nothing else.

It is a transformers ``Cache``, so it also works inside ``generate``; besides, rows can be written at arbitrary
positions, and spans be read, written and cut off, which is what stores and strategies need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from transformers.cache_utils import Cache

from nbkv.kv import KV
from nbkv.models.attention.masks import Mask
from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.base import SequenceCache, kv_nbytes
from nbkv.models.caches.growing_layer import GrowingLayer, Pair, Watcher
from nbkv.models.caches.states import LayerStates
from nbkv.show.units import plural


class GrowingCache(SequenceCache, Cache):
    """One growing buffer per layer, all of them holding the same tokens ``[0, length)``.

    Without states of recurrent layers (``StateCache`` holds some) it goes on behind any of its tokens.
    """

    layers: list[GrowingLayer]  # type: ignore[assignment]  # the parent allows any kind of layer
    base = 0  # the position of the first token it holds
    pieces: tuple[KV, ...] = ()  # where the tokens before those are read

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

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the present states."""
        return 0

    def attending(
        self, rows: torch.Tensor, n_keys: int, attention: PassAttention
    ) -> AbstractContextManager[Mask | None]:
        """Return how appended rows attend; a single row over ranges of keys where that reads each key only once."""
        if attention.reads_once(rows, n_keys):
            return attention.by_position(rows, n_keys)
        return super().attending(rows, n_keys, attention)

    def held_bytes(self) -> int:
        """Return the bytes of the valid keys and values of all layers."""
        return kv_nbytes(self.layers)

    def checkpoint(self) -> LayerStates | None:
        """Return a clone of the present states; None if there are none."""
        return None

    def resume(self, states: LayerStates | None) -> None:
        """Go on from clones of ``states``; K/V alone need none."""

    def release(self) -> LayerStates | None:
        """Return the present states and keep none; None if there are none."""
        return None

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
            message = f"{plural(len(spans), 'span')} of K/V for to a cache that begins with its sequence: make a branch"
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

    def expect(self, start: int, like: KV, need: Callable[[int], None]) -> None:
        """Count tokens of the kind of ``like`` in from ``start`` on; what writes them there has ``need(layer)`` wait.

        A pass calls it when a layer is about to use its K/V, until ``arrived``.
        """
        self.extend(len(like.keys))
        for layer, (keys, values) in enumerate(zip(like.keys, like.values, strict=True)):
            if keys.shape[0]:
                self.room(layer, start, keys, values)
            self.layers[layer].need = partial(need, layer)

    def arrived(self) -> None:
        """Wait for nothing any more."""
        for layer in self.layers:
            layer.need = None

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
