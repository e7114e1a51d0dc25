"""Puts K/V at the positions of a prompt, layer by layer, when a layer is about to run or while the one before it does.

On a CPU a layer's K/V are copied and its keys rotated right before that layer: a thread of its own would take from the
layers the very cores they compute on (``nbkv bench ttft.chunks``: ``cacheblend`` took 1.13 x its floor with one). On an
accelerator, which computes meanwhile, it is done one layer ahead.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.rope import Rope


@dataclass(frozen=True, eq=False, kw_only=True)
class SpanKV:
    """K/V that a strategy has of a span, computed with its first token at position ``base``; None: the store's."""

    kv: KV | None = None
    base: int = 0


@dataclass(frozen=True, eq=False)
class PlacedKV:
    """K/V of consecutive tokens, computed from position ``base`` on, to be placed from position ``start`` on."""

    kv: KV
    base: int
    start: int


@dataclass(eq=False)
class LayerwisePlacement:
    """The K/V to be placed in ``cache``, which then has ``length`` rows in every layer; rows without K/V are zeros.

    ``need(layer)`` returns once that layer is filled, its keys rotated to their new positions; raises ``LoadLost``
    where K/V that still arrive from a tier do not. Views into stores stay valid until ``close``.
    """

    cache: GrowingCache
    rope: Rope
    length: int
    pieces: list[PlacedKV] = field(default_factory=list)
    views: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Start nothing yet."""
        self._filled = 0
        self._angles: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, piece: PlacedKV) -> None:
        """Have ``piece`` placed; before ``begin``."""
        self.pieces.append(piece)

    def begin(self) -> None:
        """Make room in every layer, and fill the first one."""
        if not self.pieces:
            self.close()
            return
        self.pieces.sort(key=lambda piece: piece.start)
        self.cache.extend(len(self.pieces[0].kv.keys))
        self._place(0)
        self._filled = 1

    def need(self, layer: int) -> None:
        """Fill ``layer``, and those before it, if that was not done yet."""
        if not self._filled:
            return
        for unfilled in range(self._filled, min(layer, self._last) + 1):  # the last layers may have no K/V of their own
            self._fill(unfilled)
            self._filled = unfilled + 1
        if layer == self._last:
            self.close()

    def close(self) -> None:
        """Let go of the stores; layers that were not needed stay empty."""
        self.views.close()

    @property
    def _last(self) -> int:
        return len(self.cache.layers) - 1

    def _fill(self, layer: int) -> None:
        self._place(layer)

    def _place(self, layer: int) -> None:
        for piece in self.pieces:
            piece.kv.need(layer)
            keys, values = piece.kv.keys[layer], piece.kv.values[layer]
            if keys.shape[0]:
                self._put(layer, keys, values, piece)
        self.cache.layers[layer].cover(self.length)
        if layer == self._last:
            self._angles.clear()

    def _put(self, layer: int, keys: torch.Tensor, values: torch.Tensor, piece: PlacedKV) -> None:
        rotary = self.rope.layers[layer]
        if rotary is None or piece.base == piece.start:
            self.cache.put(layer, piece.start, keys, values)
            return
        key = id(rotary), id(piece)
        if key not in self._angles:
            old = torch.arange(piece.kv.length, device=keys.device) + piece.base
            self._angles[key] = rotary.angles(old, old + (piece.start - piece.base))
        cos, sin = (each.to(keys.device) for each in self._angles[key])
        rotary.place((keys, values), self.cache.room(layer, piece.start, keys, values), (cos, sin))


@dataclass(eq=False)
class AheadPlacement(LayerwisePlacement):
    """The same in a thread of its own, one layer ahead of the layer that runs."""

    def __post_init__(self) -> None:
        """Start no thread yet."""
        super().__post_init__()
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[None]] = {}

    def need(self, layer: int) -> None:
        """Wait until ``layer`` is filled, and have the next one filled meanwhile."""
        super().need(layer)
        if self._filled and layer < self._last:
            self._start(layer + 1)

    def close(self) -> None:
        """Let go of the stores, and of the thread; layers that were not needed stay empty."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _fill(self, layer: int) -> None:
        self._start(layer)
        self._ahead.pop(layer).result()

    def _start(self, layer: int) -> None:
        if layer >= self._filled and layer not in self._ahead:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="nbkv-place")
            self._ahead[layer] = self._pool.submit(self._place, layer)
