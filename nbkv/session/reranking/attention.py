"""What a query's tokens attend to, summed over heads and layers while the layers run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import watched
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray


def query_attention(
    adapter: ModelAdapter, ids: tuple[int, ...], cache: GrowingCache, layers: range, work: Work
) -> NDArray[np.float64]:
    """Run the tokens of ``ids`` behind those that ``cache`` holds; return what the latter were attended to, ``[c]``.

    The mean over the tokens that run, summed over all heads of ``layers`` (arXiv 2410.02642, as released). Each layer's
    weights are reduced as it runs, a strip of rows at a time: those of a whole model are never held. No layer behind
    ``layers`` runs where the model can be walked. The cache is left as it was.
    """
    context = cache.length
    rows = torch.arange(context, len(ids), device=adapter.device)
    some, sums = adapter.tensor(ids[context:]), torch.zeros(context, dtype=torch.float64)

    def add(seen: Attended) -> None:
        if seen.layer in layers:
            sums.add_(seen.weights[:, :, :context].sum(dim=(0, 1)).cpu())

    try:
        with watched(adapter.config, torch.arange(len(rows), device=rows.device), add):
            if layers.stop < adapter.n_layers and adapter.walk is not None:
                adapter.advance(some, rows, cache, stop=layers.stop, work=work)
            else:
                adapter.recompute(some, rows, cache, work=work)
    finally:
        cache.truncate(context)
    return (sums / len(rows)).numpy()
