"""Learns at load how a model's layers are called, and proves walk and cache on its own logits before they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import isfinite, isnan
from typing import Any

import torch
from transformers import PreTrainedModel

from nbkv.errors import UnsupportedModel
from nbkv.kv import KV
from nbkv.models import capabilities
from nbkv.models.adapter import ModelAdapter
from nbkv.models.cache import GrowingCache, TokenLog
from nbkv.models.placement import input_device
from nbkv.models.walk import Walk, find_layers

_TOKENS = 20  # probe length; cut in the middle, so that both halves have several rows
_FP32_TOLERANCE = 1e-4  # house rule 1: scaled by max(1, max|logit|)


def adapt(model: PreTrainedModel, name: str) -> ModelAdapter:
    """Return the adapter for ``model``: probed, self-tested, and honest in ``notes`` about what did not pass."""
    config = model.config.get_text_config()
    ids = _probe_ids(model, config)
    record = capabilities.read(config, model, None, walk=False, prefix=False)
    plain = ModelAdapter(model, name, record, None, tells_positions=False)
    expected = plain.forward(ids, TokenLog(), start=0, keep=len(ids)).float()
    _check_causal(plain, expected, ids)
    told = replace(plain, tells_positions=True)
    if _error(told, expected, ids, TokenLog, ()) <= _limit(plain.dtype):
        plain = told
    thirds = (len(ids) // 2, len(ids) - 1)
    split = _error(plain, expected, ids, plain.new_cache, thirds)
    limit = _limit(plain.dtype, split if isfinite(split) else 0.0)
    error, notes = _error(plain, expected, ids, GrowingCache, thirds), []
    prefix, own_cache, walk = error <= limit, True, None
    if prefix:
        walk, why = _walk(plain, expected, ids, thirds, limit)
        notes.extend(why)
    else:
        what = f"logits differ by {error:.1e} (limit {limit:.1e})" if isfinite(error) else "it does not take our cache"
        notes.append(f"prefix reuse is off: continued from cached K/V, {what}")
        own_cache = _error(plain, expected, ids, plain.new_cache, tuple(range(len(ids) - 4, len(ids)))) <= limit
    if not own_cache:
        notes.append("no cache: this family's own cache gives other logits, so each token is a full pass")
    cached = _cached(plain, ids) if prefix else None
    record = capabilities.read(config, model, cached, walk=walk is not None, prefix=prefix, own_cache=own_cache)
    return replace(plain, capabilities=record, walk=walk, notes=tuple(notes))


def _check_causal(plain: ModelAdapter, expected: torch.Tensor, ids: torch.Tensor) -> None:
    """Raise ``UnsupportedModel`` if a later token changes earlier logits (told apart from rounding only in fp32)."""
    half = len(ids) // 2
    error = _error(plain, expected[:half], ids[:half], TokenLog, ())
    if plain.dtype == torch.float32 and error > _FP32_TOLERANCE:
        message = (
            f"{plain.name} is not causal: later tokens change earlier logits (by {error:.1e}); nothing can be reused"
        )
        raise UnsupportedModel(message)


def _walk(
    plain: ModelAdapter, expected: torch.Tensor, ids: torch.Tensor, cuts: tuple[int, ...], limit: float
) -> tuple[Walk | None, list[str]]:
    """Return the proved walk of the model, or None and why."""
    layers = find_layers(plain.model, plain.n_layers, lambda: plain.forward(ids, TokenLog(), start=0))
    if layers is None:
        return None, ["plain forward: the layers are not called once each, in order"]
    walk = Walk(layers)
    error = _error(replace(plain, walk=walk), expected, ids, GrowingCache, cuts)
    if error > limit:
        return None, [f"plain forward: the walk's logits differ by {error:.1e} (limit {limit:.1e})"]
    return walk, []


def _probe_ids(model: PreTrainedModel, config: Any) -> torch.Tensor:  # noqa: ANN401
    vocabulary = int(config.vocab_size)
    context = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or _TOKENS)
    return (torch.arange(1, min(_TOKENS, context) + 1, device=input_device(model)) * 7919) % vocabulary


def _error(
    adapter: ModelAdapter,
    expected: torch.Tensor,
    ids: torch.Tensor,
    cache_of: Callable[[], Any],
    cuts: tuple[int, ...],
) -> float:
    """Return the largest scaled logit error when the pass is cut at ``cuts``; infinite if it cannot be run so."""
    try:
        cache, parts = cache_of(), []
        for start, stop in pairwise((0, *cuts, len(ids))):
            parts.append(adapter.forward(ids[start:stop], cache, start=start, keep=stop - start))
    except Exception:  # noqa: BLE001  (a family may refuse a cache in any way; the note tells, full still works)
        return float("inf")
    error = float((torch.cat(parts).float() - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return float("inf") if isnan(error) else error


def _limit(dtype: torch.dtype, split: float = 0.0) -> float:
    """Return the scaled error allowed: fixed in fp32, in half precision twice what the family's own cache gives."""
    return _FP32_TOLERANCE if dtype == torch.float32 else max(2 * split, 4 * float(torch.finfo(dtype).eps))


def _cached(adapter: ModelAdapter, ids: torch.Tensor) -> KV:
    cache = GrowingCache()
    adapter.forward(ids, cache, start=0)
    return cache.read(0, len(ids))
