"""The hidden states that a model makes its logits of, seen as they pass: what a text meant to the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nbkv.errors import UnsupportedModel
from nbkv.models.adapter import ModelAdapter


@dataclass(eq=False)
class LastHidden:
    """``rows`` ``[n, H]`` in float32: the hidden states of the rows whose logits the last pass gave."""

    rows: torch.Tensor


@contextmanager
def last_hidden(adapter: ModelAdapter) -> Iterator[LastHidden]:
    """Within the block every pass of ``adapter``'s model leaves its last hidden states.

    Raises ``UnsupportedModel`` where logits do not come from output embeddings.
    """
    head = adapter.model.get_output_embeddings()
    if head is None:
        message = f"{adapter.name} does not name its output embeddings: what its hidden states are is not known"
        raise UnsupportedModel(message)
    seen = LastHidden(torch.empty(0, 0))

    def look(_: object, given: tuple[Any, ...]) -> None:
        seen.rows = given[0].detach().reshape(-1, given[0].shape[-1]).to(torch.float32)

    handle = head.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
