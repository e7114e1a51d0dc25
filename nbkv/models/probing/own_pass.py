"""A model's own pass: logits and K/V by its own forward, through no cache, walk or mask of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.base import SequenceCache


@dataclass(frozen=True, eq=False)
class HeldRows:
    """K/V that some rows of a pass have already: ``kv`` of the tokens at ``rows`` ``[r]``."""

    rows: torch.Tensor
    kv: KV


@dataclass(frozen=True, eq=False)
class OwnPass:
    """What a pass gave: ``logits`` ``[n, V]`` after each of its tokens, and the K/V of all of them."""

    logits: torch.Tensor
    kv: KV


class _WholeLayer(DynamicLayer):
    """Keeps all rows of one layer, some of which may be given."""

    def __init__(self, given: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None) -> None:
        self._given = given
        super().__init__()  # type: ignore[no-untyped-call]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401  (what families pass along differs)
        **kwargs: Any,  # noqa: ANN401  (as transformers calls a cache)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._given is not None:
            rows, keys, values = (each.to(key_states.device) for each in self._given)
            key_states = key_states.index_copy(-2, rows, keys[None])
            value_states = value_states.index_copy(-2, rows, values[None])
        keys_now, values_now = super().update(key_states, value_states, *args, **kwargs)
        return keys_now, values_now


class _WholeCache(SequenceCache, Cache):
    """Transformers' plain layers that keep every row, also where a family's own cache drops what left a window."""

    layers: list[_WholeLayer]  # type: ignore[assignment]  # the parent allows any kind of layer

    def __init__(self, given: HeldRows | None) -> None:
        Cache.__init__(self, layer_class_to_replicate=_WholeLayer)
        if given is not None:
            sides = zip(given.kv.keys, given.kv.values, strict=True)
            self.layers = [_WholeLayer((given.rows, *pair) if pair[0].shape[0] else None) for pair in sides]

    def read(self, start: int, stop: int) -> KV:
        none = torch.empty(0, stop - start, 0)
        sides = [(layer.keys, layer.values) for layer in self.layers]
        kept = [(keys, values) if keys is not None and keys.numel() else (None, None) for keys, values in sides]
        return KV(
            tuple(none if keys is None else keys[0, :, start:stop] for keys, _ in kept),
            tuple(none if values is None else values[0, :, start:stop] for _, values in kept),
        )


def own_pass(
    adapter: ModelAdapter,
    ids: Sequence[int],
    *,
    first: int = 0,
    split: int = 0,
    given: HeldRows | None = None,
) -> OwnPass:
    """Return what the model itself makes of ``ids`` ``[n]``, the first of them at position ``first``.

    With ``split`` in two passes, the first over so many tokens. Rows that are ``given`` have those K/V in every layer,
    whatever the model would make: the others attend to them, and are what a selective recompute must give. A model that
    decodes in blocks attends by the blocks of ``first`` + 0, 1, …; ``first`` is then a multiple of its block.
    Raises whatever a family raises that has no such cache; models with recurrent states are none of those.
    """
    told = adapter.tells_positions and first > 0
    plain = replace(adapter, walk=None, tells_positions=told).model_forward
    cache, logits = _WholeCache(given), []
    rows = torch.arange(len(ids), device=adapter.device)
    for part in filter(len, (rows[:split], rows[split:])):
        mask = None if adapter.capabilities.block is None else adapter.attention.mask(part, int(part[-1]) + 1)
        tokens = adapter.tensor([ids[row] for row in part.tolist()])
        logits.append(plain.run(tokens, part + first, cache, keep=len(part), mask=mask))
    return OwnPass(torch.cat(logits), cache.read(0, len(ids)))
