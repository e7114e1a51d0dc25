"""Compressed caches held on a session's scratch, so that prompts which begin alike go on from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkv.kv import Space
from nbkv.models.caches.evicting import EvictingCache
from nbkv.prompts.prompt import Prompt
from nbkv.stores.base import Scratch


@dataclass(frozen=True, eq=False)
class _CompressedContext:
    spec: str
    space: Space
    ids: tuple[int, ...]
    cache: EvictingCache

    def begins(self, ids: Sequence[int]) -> bool:
        """Return whether these tokens are the beginning of ``ids``, with at least one more behind them."""
        return len(self.ids) < len(ids) and self.ids == tuple(ids[: len(self.ids)])


@dataclass(frozen=True)
class CompressedContexts:
    """What one strategy, written ``spec``, holds in one ``space``: at most ``limit`` caches by the name ``name``.

    KV made under other options, or of another model, is never given.
    """

    scratch: Scratch
    name: str
    spec: str
    space: Space
    limit: int

    def take(self, ids: Sequence[int]) -> EvictingCache | None:
        """Return a copy of the longest cache held of first tokens of ``ids``, but not of all; None if there is none."""
        held = self._held()
        fitting = [one for one in held if (one.spec, one.space) == (self.spec, self.space) and one.begins(ids)]
        if not fitting:
            return None
        best = max(fitting, key=lambda one: len(one.ids))
        self.scratch[self.name] = [*(one for one in held if one is not best), best]
        return best.cache.copy()

    def put(self, ids: Sequence[int], cache: EvictingCache) -> None:
        """Hold ``cache`` of the tokens ``ids``; the one used least recently goes when there are too many."""
        mine = _CompressedContext(self.spec, self.space, tuple(ids), cache)
        others = [one for one in self._held() if (one.spec, one.space, one.ids) != (mine.spec, mine.space, mine.ids)]
        self.scratch[self.name] = [*others, mine][-self.limit :]

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
