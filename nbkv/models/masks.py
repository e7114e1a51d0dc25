"""Masks by true position, in the form transformers takes prepared masks: one 4-D tensor, or one per layer type."""

from __future__ import annotations

import torch

from nbkv.models.capabilities import Capabilities

_CHUNKED = "chunked_attention"


def by_position(
    rows: torch.Tensor, n_keys: int, capabilities: Capabilities, dtype: torch.dtype | None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the mask ``[1, 1, rows, n_keys]`` for ``rows`` at true positions; a dict where layer types differ.

    Windows and chunks of local attention are measured in true positions too; a diffusion block sees all of
    itself. ``dtype`` None gives booleans; a float dtype gives the additive form that eager attention needs.
    """
    windows = dict(zip(capabilities.layer_types, capabilities.windows, strict=True))
    masks = {}
    for kind, window in windows.items():
        chunk = capabilities.attention_chunk if kind == _CHUNKED else None
        masks[kind] = _form(allowed(rows, n_keys, window, chunk, capabilities.block), dtype)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def allowed(
    rows: torch.Tensor, n_keys: int, window: int | None, chunk: int | None, block: int | None = None
) -> torch.Tensor:
    """Return bool ``[rows, n_keys]``: which key positions the row at each true position may attend to.

    With ``block`` these are all in earlier diffusion blocks and in its own.
    """
    keys = torch.arange(n_keys, device=rows.device)
    distance = rows[:, None] - keys[None, :]
    mask = distance >= 0 if block is None else rows[:, None] // block >= keys[None, :] // block
    if window is not None:
        mask &= distance < window
    if chunk is not None:
        mask &= rows[:, None] // chunk == keys[None, :] // chunk
    return mask


def _form(mask: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    mask = mask[None, None]
    if dtype is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
