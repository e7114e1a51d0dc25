"""Compressed caches held for prompts that begin alike: on a session's scratch, and at rest in a store's tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkv.context import Context
from nbkv.kv import Space
from nbkv.models.caches.evicting import EvictingCache
from nbkv.prompts.prompt import Prompt
from nbkv.stores.base import Scratch
from nbkv.stores.snapshots.base import Snapshots


@dataclass(frozen=True, eq=False)
class _CompressedContext:
    spec: str
    space: Space
    ids: tuple[int, ...]
    cache: EvictingCache

    def begins(self, ids: Sequence[int]) -> bool:
        """Return whether these tokens are the beginning of ``ids``, with at least one more behind them."""
        return len(self.ids) < len(ids) and self.ids == tuple(ids[: len(self.ids)])


@dataclass(frozen=True, eq=False)
class RestingContexts:
    """Compressed caches at rest, in the tiers of a store: those of one ``kind``, in a ``space`` that has all options.

    What a cache holds must depend on its tokens alone: other sessions, and later ones, go on from it.
    """

    snapshots: Snapshots
    kind: str
    space: Space
    devices: Sequence[str]

    @classmethod
    def of(cls, kind: str, spec: str, ctx: Context) -> RestingContexts | None:
        """Return those of a strategy written ``spec``; None where no tier takes this ``kind``."""
        found, where = ctx.store.snapshots, ctx.adapter.devices
        if not kind or found is None or not found.takes(kind):
            return None
        devices = [where[min(layer, len(where) - 1)] for layer in range(ctx.adapter.n_layers)]
        return cls(found, kind, ctx.space(f"approx:{spec}"), devices)

    def take(self, ids: Sequence[int], least: int) -> tuple[EvictingCache, str] | None:
        """Return the longest cache of first tokens of ``ids``, more than ``least`` but not all, and whence it comes."""
        found = self.snapshots.find(self.space, self.kind, ids, least, len(ids) - 1)
        if found is None:
            return None
        return EvictingCache.of(found.layers, found.stop, self.devices), found.tier

    def put(self, ids: Sequence[int], cache: EvictingCache, error: float) -> bool:
        """Have a copy of ``cache`` of the tokens ``ids`` written; ``error`` is what dropping tokens made of it."""
        return self.snapshots.put(self.space, self.kind, ids, cache.tensors(), error)


@dataclass(frozen=True)
class CompressedContexts:
    """What one strategy, written ``spec``, holds in one ``space``: at most ``limit`` caches by the name ``name``.

    KV made under other options, or of another model, is never given. ``resting`` are those in tiers, if any.
    """

    scratch: Scratch
    name: str
    spec: str
    space: Space
    limit: int
    resting: RestingContexts | None = None

    def take(self, ids: Sequence[int]) -> tuple[EvictingCache | None, str]:
        """Return a copy of the longest cache held of first tokens of ``ids``, but not of all, and where it was held.

        That is a tier or, in this session, the ``shelf``; None if there is none.
        """
        held = self._held()
        fitting = [one for one in held if (one.spec, one.space) == (self.spec, self.space) and one.begins(ids)]
        best = max(fitting, key=lambda one: len(one.ids), default=None)
        found = None if self.resting is None else self.resting.take(ids, len(best.ids) if best else 0)
        if found is not None or best is None:
            return found or (None, "")
        self.scratch[self.name] = [*(one for one in held if one is not best), best]
        return best.cache.copy(), "shelf"

    def put(self, ids: Sequence[int], cache: EvictingCache) -> None:
        """Hold ``cache`` of the tokens ``ids``; the one used least recently goes when there are too many."""
        mine = _CompressedContext(self.spec, self.space, tuple(ids), cache)
        others = [one for one in self._held() if (one.spec, one.space, one.ids) != (mine.spec, mine.space, mine.ids)]
        self.scratch[self.name] = [*others, mine][-self.limit :]

    def put_to_rest(self, ids: Sequence[int], cache: EvictingCache, error: float) -> None:
        """Hold ``cache``, which depends on ``ids`` alone, in this session and in tiers that take such.

        ``error`` is what dropping tokens made of it.
        """
        self.put(ids, cache)
        if self.resting is not None:
            self.resting.put(ids, cache, error)

    def _held(self) -> list[_CompressedContext]:
        return list(self.scratch.get(self.name, ()))


def boundary(context: str | int, prompt: Prompt) -> int:
    """Return how many first tokens of ``prompt`` are compressed before the rest runs; all, if ``context`` sets no end.

    At least one token is left behind a boundary: its logits are needed.
    """
    n = len(prompt.ids)
    if isinstance(context, int):
        return min(context, n - 1) or n
    if context == "chunks" and prompt.chunks:
        return min(prompt.chunks[-1][2], n - 1) or n
    return n
