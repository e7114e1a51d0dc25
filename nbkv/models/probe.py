"""Learns at load how a model's layers are called, and proves walk and cache on its own logits before they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from nbkv.kv import KV
from nbkv.models import capabilities
from nbkv.models.adapter import ModelAdapter
from nbkv.models.cache import GrowingCache
from nbkv.models.walk import Walk, find_layers

_TOKENS = 20  # probe length; cut in the middle, so that both halves have several rows
_FP32_TOLERANCE = 1e-4  # house rule 1: scaled by max(1, max|logit|)


def adapt(model: PreTrainedModel, name: str) -> ModelAdapter:
    """Return the adapter for ``model``: probed, self-tested, and honest in ``notes`` about what did not pass."""
    config = model.config.get_text_config()
    ids = _probe_ids(model, config)
    plain = _bare(model, config, ids)
    expected = plain.forward(ids, DynamicCache(config=config), start=0, keep=len(ids)).float()
    layers = find_layers(
        model, int(config.num_hidden_layers), lambda: plain.forward(ids, DynamicCache(config=config), start=0)
    )
    notes = []
    split = _split_error(plain, expected, ids, lambda: DynamicCache(config=config))
    limit = _limit(plain.dtype, split, expected)
    error = _split_error(plain, expected, ids, GrowingCache)
    prefix = error <= limit
    if not prefix:
        notes.append(f"prefix reuse is off: split logits differ from a full pass by {error:.1e} (limit {limit:.1e})")
    walk = None
    if layers is None:
        notes.append("plain forward: the layers are not called once each, in order")
    elif prefix:
        walk = Walk(layers)
        walked = _split_error(ModelAdapter(model, name, plain.capabilities, walk), expected, ids, GrowingCache)
        if walked > limit:
            walk = None
            notes.append(f"plain forward: the walk's logits differ by {walked:.1e} (limit {limit:.1e})")
    record = capabilities.read(
        config, model, _cached(plain, ids) if prefix else None, walk=walk is not None, prefix=prefix
    )
    return ModelAdapter(model, name, record, walk, tuple(notes))


def _bare(model: PreTrainedModel, config: Any, ids: torch.Tensor) -> ModelAdapter:  # noqa: ANN401, ARG001
    record = capabilities.read(config, model, None, walk=False, prefix=False)
    return ModelAdapter(model, "", record, None)


def _probe_ids(model: PreTrainedModel, config: Any) -> torch.Tensor:  # noqa: ANN401
    embedding: Any = model.get_input_embeddings()
    vocabulary = int(config.vocab_size)
    context = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or _TOKENS)
    return (torch.arange(1, min(_TOKENS, context) + 1, device=embedding.weight.device) * 7919) % vocabulary


def _split_error(
    adapter: ModelAdapter, expected: torch.Tensor, ids: torch.Tensor, cache_of: Callable[[], Any]
) -> float:
    """Return the largest logit error of prefill, several-token continuation and single-token step, scaled."""
    first, second = len(ids) // 2, len(ids) - 1
    try:
        cache = cache_of()
        parts = [
            adapter.forward(ids[start:stop], cache, start=start, keep=stop - start)
            for start, stop in ((0, first), (first, second), (second, len(ids)))
        ]
    except Exception:  # noqa: BLE001  (a family may refuse our cache in any way; the note tells, full still works)
        return float("inf")
    got = torch.cat(parts).float()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return error if error == error else float("inf")  # noqa: PLR0124  (NaN)


def _limit(dtype: torch.dtype, split: float, expected: torch.Tensor) -> float:
    """Return the error allowed: fixed in fp32, in half precision twice what the family's own cache gives when split."""
    if dtype == torch.float32:
        return _FP32_TOLERANCE
    rounding = float(torch.finfo(dtype).eps) * float(expected.abs().max().clamp(min=1.0))
    return max(2 * split, rounding) if split < float("inf") else rounding


def _cached(adapter: ModelAdapter, ids: torch.Tensor) -> KV:
    cache = GrowingCache()
    adapter.forward(ids, cache, start=0)
    return cache.read(0, len(ids))
