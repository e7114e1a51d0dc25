"""Masks by true position, in the form transformers takes prepared masks: one 4-D tensor, or one per layer type."""

from __future__ import annotations

from typing import Any

import torch

_SLIDING = "sliding_attention"
_CHUNKED = "chunked_attention"


def allowed(rows: torch.Tensor, n_keys: int, kind: str, config: Any) -> torch.Tensor:  # noqa: ANN401  (a transformers config)
    """Return bool ``[rows, n_keys]``: which key positions the row at each true position may attend to.

    ``kind`` is the layer's type in ``config.layer_types``; windows and chunks are measured in true positions too.
    """
    keys = torch.arange(n_keys, device=rows.device)
    distance = rows[:, None] - keys[None, :]
    mask = distance >= 0
    if kind == _SLIDING:
        mask &= distance < config.sliding_window
    elif kind == _CHUNKED:
        mask &= rows[:, None] // config.attention_chunk_size == keys[None, :] // config.attention_chunk_size
    return mask


def by_position(
    rows: torch.Tensor,
    n_keys: int,
    kinds: tuple[str, ...],
    config: Any,  # noqa: ANN401  (a transformers config)
    dtype: torch.dtype | None,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the mask ``[1, 1, rows, n_keys]`` for ``rows`` at true positions; a dict where layer types differ.

    ``dtype`` None gives booleans; a float dtype gives the additive form that eager attention needs.
    """
    masks = {kind: _form(allowed(rows, n_keys, kind, config), dtype) for kind in dict.fromkeys(kinds)}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _form(mask: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    mask = mask[None, None]
    if dtype is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
