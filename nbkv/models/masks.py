"""Masks by true position, in the form transformers takes prepared masks: one 4-D tensor, or one per layer type."""

from __future__ import annotations

import torch

from nbkv.models.capabilities import Capabilities


def by_position(
    rows: torch.Tensor, n_keys: int, capabilities: Capabilities, dtype: torch.dtype | None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the mask ``[1, 1, rows, n_keys]`` for ``rows`` at true positions; a dict where layer types differ.

    Windows and chunks of local attention are measured in true positions too; a diffusion block sees all of
    itself. ``dtype`` None gives booleans; a float dtype gives the additive form that eager attention needs.
    """
    masks = {}
    for layer, kind in enumerate(capabilities.layer_types):
        if kind not in masks:
            masks[kind] = _form(allowed(rows, n_keys, *capabilities.reach(layer), capabilities.block), dtype)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def allowed(
    rows: torch.Tensor, n_keys: int, window: int | None, chunk: int | None, block: int | None = None
) -> torch.Tensor:
    """Return bool ``[rows, n_keys]``: which key positions the row at each true position may attend to.

    With ``block`` these are all in earlier diffusion blocks and in its own.
    """
    keys = torch.arange(n_keys, device=rows.device)
    lower, upper = edges(rows, window, chunk, block)
    return (keys >= lower[:, None]) & (keys < upper[:, None])


def edges(
    rows: torch.Tensor, window: int | None, chunk: int | None, block: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``[rows]`` twice: the first key position that the row at each true position sees, and the end of them."""
    lower, upper = torch.zeros_like(rows), rows + 1 if block is None else (rows // block + 1) * block
    if window is not None:
        lower = (rows - window + 1).clamp(min=0)
    if chunk is not None:
        own = rows // chunk * chunk
        lower, upper = torch.maximum(lower, own), torch.minimum(upper, own + chunk)
    return lower, upper


def _form(mask: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    mask = mask[None, None]
    if dtype is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
