"""A pass over a cache whose slots are a choice of the tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from nbkv.models.attention.intercept import OnAttention, implementation, watched
from nbkv.models.attention.masks import by_slot
from nbkv.models.caches.evicting import EvictingCache

if TYPE_CHECKING:
    from nbkv.models.adapter import ModelAdapter

_AT_ONCE = 256  # rows looked at together: some methods pool over a window of them


def run(
    adapter: ModelAdapter,
    ids: torch.Tensor,
    cache: EvictingCache,
    *,
    see: OnAttention,
    look: int = 0,
    work: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Run tokens ``ids`` ``[n]`` at the next positions and add their slots; return the logits ``[V]`` after the last.

    ``see`` is shown what the last ``look`` of them attend to, over the slots there are.
    """
    start, n = cache.seen, len(ids)
    rows = torch.arange(start, start + n, device=adapter.device)
    dtype = adapter.dtype if implementation(adapter.config) == "eager" else None

    def mask_of(layer: int) -> torch.Tensor | None:
        slots = cache.layers[layer].positions
        return by_slot(rows.to(slots.device), slots, adapter.capabilities, layer, dtype)

    last = torch.arange(max(0, n - look), n, device=adapter.device)
    with watched(adapter.config, last, see, mask_of, at_once=_AT_ONCE):
        return adapter.forward(ids, cache, start=start, work=work)[-1]  # type: ignore[arg-type]
