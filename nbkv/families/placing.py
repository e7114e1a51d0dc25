"""Puts KV where a prompt wants it, layer by layer, and one layer ahead of the layers that run.

A layer's KV is copied and its keys are turned when that layer is about to run, in a thread of its own while the layer
before it computes: where KV comes from a slow place, waiting for it hides behind work that has to be done anyway.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from nbkv.kv import KV
from nbkv.models.cache import GrowingCache
from nbkv.rope import Rope


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """KV that a strategy has of a span, made with its first token at position ``base``; without ``kv``, the store's."""

    kv: KV | None = None
    base: int = 0


@dataclass(frozen=True, eq=False)
class Piece:
    """KV of some tokens, made with the first of them at position ``base``, to stand from ``start`` on."""

    kv: KV
    base: int
    start: int


@dataclass(eq=False)
class Placing:
    """What is put into ``cache``, which then holds ``length`` tokens in every layer; rows nobody fills are zeros.

    ``need(layer)`` returns when that layer is filled. Views into stores stay valid until ``close``.
    """

    cache: GrowingCache
    rope: Rope
    length: int
    pieces: list[Piece] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Start nothing yet."""
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[None]] = {}
        self._filled = 0
        self._angles: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, piece: Piece) -> None:
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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nbkv-place")

    def need(self, layer: int) -> None:
        """Wait until ``layer`` is filled, and have the next one filled meanwhile."""
        if self._pool is None:
            return
        last = len(self.cache.layers) - 1
        for ahead in range(self._filled, min(layer + 1, last) + 1):
            self._ahead[ahead] = self._pool.submit(self._place, ahead)
            self._filled = ahead + 1
        if layer in self._ahead:
            self._ahead.pop(layer).result()
        if layer == last:
            self.close()

    def close(self) -> None:
        """Let go of the stores, and of the thread; layers that were not needed stay empty."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self.held.close()

    def _place(self, layer: int) -> None:
        for piece in self.pieces:
            keys, values = piece.kv.keys[layer], piece.kv.values[layer]
            if keys.shape[0]:
                self._put(layer, keys, values, piece)
        self.cache.layers[layer].cover(self.length)
        if layer == len(self.cache.layers) - 1:
            self._angles.clear()

    def _put(self, layer: int, keys: torch.Tensor, values: torch.Tensor, piece: Piece) -> None:
        turning = self.rope.layers[layer]
        if turning is None or piece.base == piece.start:
            self.cache.put(layer, piece.start, keys, values)
            return
        key = id(turning), id(piece)
        if key not in self._angles:
            old = torch.arange(piece.kv.length, device=keys.device) + piece.base
            self._angles[key] = turning.angles(old, old + (piece.start - piece.base))
        cos, sin = (each.to(keys.device) for each in self._angles[key])
        turning.place((keys, values), self.cache.room(layer, piece.start, keys, values), (cos, sin))
