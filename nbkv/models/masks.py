"""Masks by true position, in the form transformers takes prepared masks: one 4-D tensor, or one per layer type."""

from __future__ import annotations

import torch

from nbkv.models.capabilities import Capabilities

_CHUNKED = "chunked_attention"


def by_position(
    rows: torch.Tensor, n_keys: int, capabilities: Capabilities, dtype: torch.dtype | None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the mask ``[1, 1, rows, n_keys]`` for ``rows`` at true positions; a dict where layer types differ.

    Windows and chunks of local attention are measured in true positions too. ``dtype`` None gives booleans; a float
    dtype gives the additive form that eager attention needs.
    """
    windows = dict(zip(capabilities.layer_types, capabilities.windows, strict=True))
    masks = {}
    for kind, window in windows.items():
        chunk = capabilities.attention_chunk if kind == _CHUNKED else None
        keys = torch.arange(n_keys, device=rows.device)
        masks[kind] = _form(allowed(rows, keys, window, chunk)[None, None], dtype)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def by_slot(
    rows: torch.Tensor, slots: torch.Tensor, capabilities: Capabilities, layer: int, dtype: torch.dtype | None
) -> torch.Tensor | None:
    """Return the mask ``[1, H or 1, n, T]`` of one layer whose slots hold tokens of positions ``slots`` ``[H_k, T]``.

    ``rows`` ``[n]`` are true positions, the last ones of all. ``H`` is 1 where heads see the same, else all query
    heads. None where a single row sees every slot. ``dtype`` as in ``by_position``.
    """
    window = capabilities.windows[layer]
    chunk = capabilities.attention_chunk if capabilities.layer_types[layer] == _CHUNKED else None
    if window is None and chunk is None:
        # whatever a head holds of earlier rows it may see: only the new rows differ, and they are in all heads alike
        return None if len(rows) == 1 else _form(allowed(rows, slots[:1], None, None)[None], dtype)
    mask = allowed(rows, slots, window, chunk)
    if len(rows) == 1 and bool(mask.all()):
        return None
    if len(slots) > 1:
        mask = mask.repeat_interleave(capabilities.groups, dim=0)
    return _form(mask[None], dtype)


def allowed(rows: torch.Tensor, keys: torch.Tensor, window: int | None, chunk: int | None) -> torch.Tensor:
    """Return bool ``[..., n, T]``: which of the positions ``keys`` ``[..., T]`` each of ``rows`` ``[n]`` may see."""
    keys = keys[..., None, :]
    distance = rows[:, None] - keys
    mask = distance >= 0
    if window is not None:
        mask &= distance < window
    if chunk is not None:
        mask &= rows[:, None] // chunk == keys // chunk
    return mask


def _form(mask: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
