"""Masks by true position, in the form transformers takes prepared masks: one 4-D tensor, or one per layer type."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nbkv.models.capabilities import Capabilities

Mask = torch.Tensor | dict[str, torch.Tensor]  # [1, 1, n, T]; a dict by layer type where these differ


@dataclass(frozen=True, eq=False)
class Ranges:
    """A mask that is not written out: row ``r`` attends to keys ``[lower[r], upper[r])``; both are ``[n]``."""

    lower: torch.Tensor
    upper: torch.Tensor

    def to(self, device: torch.device) -> Ranges:
        """Return them on ``device``."""
        return Ranges(self.lower.to(device), self.upper.to(device))

    def of(self, rows: torch.Tensor, n_keys: int) -> torch.Tensor:
        """Return the mask, bool ``[1, len(rows), n_keys]``, of the rows at indices ``rows``."""
        keys = torch.arange(n_keys, device=rows.device)
        return ((keys >= self.lower[rows, None]) & (keys < self.upper[rows, None]))[None]


def by_position(rows: torch.Tensor, n_keys: int, capabilities: Capabilities, dtype: torch.dtype | None) -> Mask:
    """Return the mask ``[1, 1, rows, n_keys]`` for ``rows`` at true positions; a dict where layer types differ.

    Windows and chunks of local attention are measured in true positions too; a diffusion block attends to all
    of itself. ``dtype`` None gives booleans; a float dtype gives the additive form that eager attention needs.
    """
    masks = {}
    for layer, kind in enumerate(capabilities.layer_types):
        if kind not in masks:
            keys = torch.arange(n_keys, device=rows.device)
            mask = allowed(rows, keys, *capabilities.reach(layer), capabilities.block)
            masks[kind] = _form(mask[None, None], dtype)
    return masks if len(masks) > 1 else next(iter(masks.values()))


def by_slot(
    rows: torch.Tensor, slots: torch.Tensor, capabilities: Capabilities, layer: int, dtype: torch.dtype | None
) -> torch.Tensor | None:
    """Return the mask ``[1, H or 1, n, T]`` of one layer whose slots hold tokens of positions ``slots`` ``[H_k, T]``.

    ``rows`` ``[n]`` are true positions, the last ones of all. ``H`` is 1 where heads attend to the same, else
    all query heads. None where a single row attends to every slot. ``dtype`` as in ``by_position``.
    """
    window, chunk = capabilities.reach(layer)
    if window is None and chunk is None:
        # whatever a head holds of earlier rows it may see: only the new rows differ, and they are in all heads alike
        return None if len(rows) == 1 else _form(allowed(rows, slots[:1], None, None)[None], dtype)
    mask = allowed(rows, slots, window, chunk)
    if len(rows) == 1 and bool(mask.all()):
        return None
    if len(slots) > 1:
        mask = mask.repeat_interleave(capabilities.groups, dim=0)
    return _form(mask[None], dtype)


def allowed(
    rows: torch.Tensor, keys: torch.Tensor, window: int | None, chunk: int | None, block: int | None = None
) -> torch.Tensor:
    """Return bool ``[..., n, T]``: which of the positions ``keys`` ``[..., T]`` each of ``rows`` ``[n]`` may attend to.

    With ``block`` these are all in earlier diffusion blocks and in its own.
    """
    lower, upper = edges(rows, window, chunk, block)
    keys = keys[..., None, :]
    return (keys >= lower[:, None]) & (keys < upper[:, None])


def edges(
    rows: torch.Tensor, window: int | None, chunk: int | None, block: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``[rows]`` twice: the first key position each row (a true position) attends to, and the end of them."""
    lower, upper = torch.zeros_like(rows), rows + 1 if block is None else (rows // block + 1) * block
    if window is not None:
        lower = (rows - window + 1).clamp(min=0)
    if chunk is not None:
        own = rows // chunk * chunk
        lower, upper = torch.maximum(lower, own), torch.minimum(upper, own + chunk)
    return lower, upper


def _form(mask: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
