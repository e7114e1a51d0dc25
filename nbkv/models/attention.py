"""Looks at attention while the layers run, without changing what they compute.

Transformers' attention modules hand queries and keys, rotated and with the cache joined, to the function that the
AttentionInterface names. For the length of a block that function is wrapped: the wrapper shows the weights of a few
query rows to whoever asked, then calls the function it stands for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "nbkv_watched"
_CHUNK = 256  # query rows whose weights are held at a time


@dataclass(frozen=True, eq=False)
class Attended:
    """What some watched rows did in one layer.

    ``rows`` ``[n]`` are indices among the rows of the pass, ``weights`` float32 ``[H_q, n, T]``, ``values``
    ``[H_v, T, D]`` those of all keys, ``output`` ``[n, H_q, D]`` what the attention function returned for the rows.
    """

    layer: int
    rows: torch.Tensor
    weights: torch.Tensor
    values: torch.Tensor
    output: torch.Tensor


OnAttention = Callable[[Attended], object]
# Called with a layer's index when its attention begins; returns the mask it is to use.
MaskOf = Callable[[int], torch.Tensor | None]


@contextmanager
def watched(
    config: Any,  # noqa: ANN401
    which: torch.Tensor,
    on_attention: OnAttention,
    mask_of: MaskOf | None = None,
) -> Iterator[None]:
    """Within the block ``on_attention`` is shown, for each layer, the weights of the query rows at indices ``which``.

    It is called several times a layer where there are many rows. ``config`` is the text decoder's. ``mask_of`` gives
    each layer its mask, where layers differ in what they hold; without a mask of the caller's, models make none for an
    attention function that is wrapped.
    """
    own = config._attn_implementation  # noqa: SLF001  (the only name transformers gives it)

    def function(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if mask_of is not None:
            attention_mask = mask_of(module.layer_idx)
        given = _function(own, module)(module, query, key, value, attention_mask, **kwargs)
        rows = which.to(query.device)
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            weights = _weights(module, query, key, attention_mask, some, **kwargs)
            on_attention(Attended(module.layer_idx, some, weights, value[0], given[0][0, some]))
        return given

    function.__dict__["stands_for"] = own
    ALL_ATTENTION_FUNCTIONS.register(_NAME, function)
    config._attn_implementation = _NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = own  # noqa: SLF001
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(_NAME, None)  # noqa: SLF001  (there is no way to unregister)


def implementation(config: Any) -> str:  # noqa: ANN401
    """Return the name of the attention function in use, also while it is watched."""
    name = str(config._attn_implementation)  # noqa: SLF001
    return str(ALL_ATTENTION_FUNCTIONS[_NAME].__dict__["stands_for"]) if name == _NAME else name


def _function(own: str, module: Any) -> Any:  # noqa: ANN401
    if own == "eager":  # it is no entry of the interface: each family has its own
        return sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[own]


def _weights(
    module: Any,  # noqa: ANN401
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    rows: torch.Tensor,
    **kwargs: Any,  # noqa: ANN401
) -> torch.Tensor:
    """Return softmax weights ``[H_q, n, T]`` in float32 of query ``[1, H_q, N, D]`` at indices ``rows``."""
    picked = query[0].index_select(-2, rows).to(torch.float32)
    groups = query.shape[1] // key.shape[1]
    keys = key[0].to(torch.float32)
    scaling = kwargs.get("scaling") or getattr(module, "scaling", None) or picked.shape[-1] ** -0.5
    grouped = picked.reshape(key.shape[1], groups * len(rows), -1)
    scores = (grouped @ keys.transpose(-1, -2)).reshape(query.shape[1], len(rows), -1) * scaling
    if (cap := kwargs.get("softcap")) is not None:
        scores = torch.tanh(scores / cap) * cap
    if mask is not None:
        seen = mask[0].index_select(-2, rows)[..., : keys.shape[-2]]
        scores = scores.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else scores + seen
    if (sinks := kwargs.get("s_aux")) is not None:
        sink = sinks.to(torch.float32).reshape(-1, 1, 1).expand(-1, len(rows), 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights: torch.Tensor = scores.softmax(dim=-1)
    return weights if sinks is None else weights[..., :-1]
