"""Attention by true position without a mask: what a row may see is a range of keys, two numbers a row and layer.

A mask ``[rows, T]`` of a long prompt is larger than its K/V; the ranges are not, and rows that see little read little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nbkv.models.attention import standing_in
from nbkv.models.capabilities import Capabilities
from nbkv.models.masks import Ranges, edges


@contextmanager
def ranged(config: Any, rows: torch.Tensor, capabilities: Capabilities) -> Iterator[None]:  # noqa: ANN401
    """Within the block the rows of a pass, at true positions ``rows`` ``[n]``, attend to what each layer lets them see.

    The pass is given no mask. ``config`` is the text decoder's.
    """
    known: dict[tuple[int | None, int | None], Ranges] = {}

    def hand(own: Any, module: Any, query: torch.Tensor, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        reach = capabilities.reach(module.layer_idx)
        if reach not in known:
            known[reach] = Ranges(*edges(rows, *reach, capabilities.block))
        return own(module, query, *states[:2], known[reach].to(query.device), **kwargs)

    with standing_in(config, hand):
        yield
