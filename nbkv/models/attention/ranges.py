"""Attention by true position without a mask: a row attends to a range of keys, two numbers a row and layer.

A mask ``[rows, T]`` of a long prompt is larger than its K/V; the ranges are not, and rows that attend to few read few.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nbkv.models.attention.intercept import replaced_attention
from nbkv.models.attention.masks import Ranges, edges
from nbkv.models.capabilities import Capabilities

_HALF = 128  # keys, in half precision
_WIDE = 2048  # keys times query heads of a group, in float32


@contextmanager
def ranged(config: Any, rows: torch.Tensor, capabilities: Capabilities) -> Iterator[None]:  # noqa: ANN401  (as transformers calls attention)
    """Within the block the rows of a pass, at true positions ``rows`` ``[n]``, attend to what each layer lets them.

    The pass is given no mask. ``config`` is the text decoder's.
    """
    known: dict[tuple[int | None, int | None], Ranges] = {}

    def give_ranges(own: Any, module: Any, query: torch.Tensor, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
        reach = capabilities.reach(module.layer_idx)
        if reach not in known:
            known[reach] = Ranges(*edges(rows, *reach, capabilities.block))
        return own(module, query, *states[:2], known[reach].to(query.device), **kwargs)

    with replaced_attention(config, give_ranges):
        yield


def reads_once(capabilities: Capabilities, dtype: torch.dtype, n_keys: int) -> bool:
    """Return whether on a CPU one row over ``n_keys`` keys is quicker over ranges than by the model's own function.

    The query heads of a group then read their keys together, once: ``nbkv bench decode.tpot`` gave 0.91 x generate by
    the model's own function, 0.84 x over ranges (float32, 16/8 heads of 128, 2,048 tokens). In half precision torch's
    own function for grouped heads is slower by far, so it pays from fewer keys on.
    """
    if not capabilities.ranges or capabilities.groups == 1:
        return False
    return n_keys * capabilities.groups > _WIDE if dtype == torch.float32 else n_keys >= _HALF
