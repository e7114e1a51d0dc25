"""Passes of a special kind: over a choice of slots, over masked positions, and one in which no layer runs."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import OnAttention, implementation, watched
from nbkv.models.attention.masks import by_slot
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.walk import Halted, LayerCall
from nbkv.models.work import Work

_AT_ONCE = 256  # query rows observed together: some methods pool over a window of them


def over_slots(
    adapter: ModelAdapter,
    ids: torch.Tensor,
    cache: EvictingCache,
    *,
    observe: OnAttention,
    observed: int = 0,
    work: Work | None = None,
) -> torch.Tensor:
    """Run tokens ``ids`` ``[n]`` at the next positions and add their slots; return the logits ``[V]`` after the last.

    ``observe`` is given the attention weights of the last ``observed`` query rows over the slots there are.
    """
    start, n = cache.seen, len(ids)
    rows = torch.arange(start, start + n, device=adapter.device)
    dtype = adapter.dtype if implementation(adapter.config) == "eager" else None

    def mask_of(layer: int) -> torch.Tensor | None:
        slots = cache.layers[layer].positions
        return by_slot(rows.to(slots.device), slots, adapter.capabilities, layer, dtype)

    last = torch.arange(max(0, n - observed), n, device=adapter.device)
    with watched(adapter.config, last, observe, mask_of, at_once=_AT_ONCE):
        return adapter.forward(ids, cache, start=start, work=work)[-1]


def masked(adapter: ModelAdapter, ids: torch.Tensor, cache: GrowingCache, positions: Sequence[int]) -> torch.Tensor:
    """Run tokens ``ids`` ``[n]`` after what ``cache`` holds, ``positions`` masked out; return the logits ``[V]``."""
    rows = torch.arange(cache.length, cache.length + len(ids), device=adapter.device)
    with cache.writing(rows):
        mask = adapter.attention.mask(rows, cache.length + len(ids))
        for each in mask.values() if isinstance(mask, dict) else [mask]:
            each[..., list(positions)] = False if each.dtype == torch.bool else torch.finfo(each.dtype).min
        return adapter.model_forward.run(ids, rows, cache, mask=mask)[-1]


def layer_calls(adapter: ModelAdapter, ids: torch.Tensor, cache: SequenceCache, *, start: int) -> list[LayerCall]:
    """Return how the model calls each layer for tokens ``ids`` ``[n]`` at positions ``start …``; no layer runs.

    All calls hold the same hidden states, the first layer's input. Raises ``ValueError`` for a model without a walk.
    """
    taken: list[LayerCall] = []

    def take(calls: Sequence[LayerCall]) -> torch.Tensor:
        taken.extend(calls)
        raise Halted(calls[0].hidden, 0)

    positions = torch.arange(start, start + len(ids), device=adapter.device)
    try:
        adapter.model_forward.run(ids, positions, cache, runner=take)
    except Halted as halted:
        traceback.clear_frames(halted.__traceback__)  # else its frames outlive the call
        return taken
    message = f"{adapter.name} cannot be walked, so nothing is known of how its layers are called"
    raise ValueError(message)
