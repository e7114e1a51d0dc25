"""Soft tokens: rows of a prompt whose input embeddings are given, as no token of the vocabulary stands for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter

_TOLERANCE = 1e-5
_known: WeakKeyDictionary[ModelAdapter, bool] = WeakKeyDictionary()


@contextmanager
def soft(model: nn.Module, at: torch.Tensor, vectors: torch.Tensor) -> Iterator[None]:
    """Within the block each pass takes ``vectors`` ``[n, H]`` as the embeddings of its rows at indices ``at`` ``[n]``.

    The token ids of these rows play no part. ``vectors`` are what the embedding module would return, its
    scaling included.
    """

    def put(_module: nn.Module, _given: object, out: torch.Tensor) -> torch.Tensor:
        return out.index_copy(-2, at.to(out.device), vectors.to(out.device, out.dtype).expand(*out.shape[:-2], -1, -1))

    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]  # PreTrainedModel, or PEFT around one
    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def embeddings(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return what ``model`` embeds token ``ids`` ``[n]`` as, ``[n, H]``."""
    with torch.no_grad():
        embedded: torch.Tensor = model.get_input_embeddings()(ids)  # type: ignore[operator]  # as above
    return embedded


def embeddings_work(adapter: ModelAdapter) -> bool:
    """Return whether embeddings can stand in for token ids (``soft``): the same logits whatever the ids below them are.

    Not where layers read the ids themselves, as those with per-layer inputs (Gemma 3n) do. Tried once a model.
    """
    if adapter not in _known:
        _known[adapter] = _tried(adapter)
    return _known[adapter]


def _tried(adapter: ModelAdapter) -> bool:
    ids, others = adapter.tensor((3, 1, 2, 4)), adapter.tensor((2, 4, 1, 3))
    expected = adapter.forward(ids, adapter.new_cache(), start=0, keep=len(ids))
    with soft(adapter.model, torch.arange(len(ids)), embeddings(adapter.model, ids)):
        logits = adapter.forward(others, adapter.new_cache(), start=0, keep=len(ids))
    return scaled_error(logits, expected) <= _TOLERANCE
