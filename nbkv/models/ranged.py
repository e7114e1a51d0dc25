"""Attention by true position without a mask: what a row may see is a range of keys, two numbers a row and layer.

A mask ``[rows, T]`` of a long prompt is larger than its K/V; the ranges are not, and rows that see little read little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nbkv.models.attention import Attention, computed_by
from nbkv.models.capabilities import Capabilities
from nbkv.models.masks import edges
from nbkv.ops import row_attention


@contextmanager
def ranged(config: Any, rows: torch.Tensor, capabilities: Capabilities) -> Iterator[None]:  # noqa: ANN401
    """Within the block the rows of a pass, at true positions ``rows`` ``[n]``, attend to what each layer lets them see.

    The pass is given no mask. ``config`` is the text decoder's.
    """
    known: dict[tuple[int | None, int | None], tuple[torch.Tensor, torch.Tensor]] = {}

    def policy(seen: Attention) -> torch.Tensor:
        reach = capabilities.reach(seen.layer)
        if reach not in known:
            known[reach] = edges(rows, *reach, capabilities.block)
        lower, upper = (edge.to(seen.query.device) for edge in known[reach])
        options: dict[str, Any] = {"scale": seen.scale, "softcap": seen.softcap, "sinks": seen.sinks}
        return row_attention(seen.query, seen.key, seen.value, upper, lower, **options)[0]

    with computed_by(config, policy):
        yield
