"""Attention under a mask on a CPU, where the query heads of a group read their keys together.

Transformers writes keys and values out once a query head before it calls torch under a mask, since on a GPU torch's
quick functions take no mask with grouped heads. On a CPU they do, with the same result bit for bit: what is spared is
the copy, which for a few rows behind a long prefix costs more than attention itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from nbkv.models.attention.intercept import replaced_attention

# what attention is called with that is the scale, or changes nothing under a mask; in evaluation nothing drops out
_KNOWN = {"scaling", "dropout", "is_causal", "sliding_window", "position_ids", "cache_position", "use_cache"}


def grouped(config: Any) -> AbstractContextManager[None]:  # noqa: ANN401  (as transformers calls attention)
    """Return a block within which a pass under the model's own mask reads keys a group of heads at a time."""
    return replaced_attention(config, _attend, masks=True)


def _attend(own: Callable[..., Any], module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
    query, key, value, *masks = states
    mask = masks[0] if masks else None  # some families name it: they are left to themselves
    more = any(name not in _KNOWN and given is not None and given is not False for name, given in kwargs.items())
    if more or not isinstance(mask, torch.Tensor) or query.shape[1] == key.shape[1]:
        return own(module, *states, **kwargs)
    scale = kwargs.get("scaling")
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None
