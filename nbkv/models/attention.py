"""Stands in for the attention function of a model while its layers run: to look at it, or to compute it another way.

Transformers' attention modules hand queries and keys, rotated and with the cache joined, to the function that the
AttentionInterface names. For the length of a ``with`` block another function has that place; it may call the one it
stands for, before it shows the weights of a few query rows to whoever asked, or not at all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbkv.ops import State, partial_attention

_STANDS_IN = "+nbkv"  # what the name of a function ends in that has the place of another
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


@dataclass
class Meter:
    """The seconds that attention took, of all layers so far; on a GPU only those of asking for it."""

    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Attention:
    """What one layer is about to attend with, in a pass over the last rows of a sequence.

    ``query`` ``[1, H_q, n, D]``, ``key`` ``[1, H_k, T, D]``, ``value`` ``[1, H_v, T, D_v]``: the last ``n`` keys are
    those of the rows themselves. ``softcap`` and ``sinks`` ``[H_q]`` as in ``nbkv.ops.partial_attention``.
    """

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def outside(self) -> int:
        """Return how many keys stand before those of the rows themselves."""
        return self.key.shape[-2] - self.query.shape[-2]

    def to(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        query: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> State:
        """Return ``(out, lse)`` of the attention of all rows, or of ``query``, to given keys; sinks are not counted."""
        query = self.query if query is None else query
        return partial_attention(query, key, value, scale=self.scale, mask=mask, softcap=self.softcap)

    def inside(self) -> State:
        """Return ``(out, lse)`` of the attention of the rows to each other, sinks counted."""
        key, value = self.key[:, :, self.outside :], self.value[:, :, self.outside :]
        return partial_attention(self.query, key, value, scale=self.scale, softcap=self.softcap, sinks=self.sinks)


# Gives the output [1, H_q, n, D_v] of a layer's attention, or None to have the model's own function compute it.
Policy = Callable[[Attention], torch.Tensor | None]


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

    def look(own: Any, module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        query, key, value, mask = states
        if mask_of is not None:
            mask = mask_of(module.layer_idx)
        given = own(module, query, key, value, mask, **kwargs)
        rows = which.to(query.device)
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            weights = _weights(module, query, key, mask, some, **kwargs)
            on_attention(Attended(module.layer_idx, some, weights, value[0], given[0][0, some]))
        return given

    with _standing_in(config, look):
        yield


@contextmanager
def computed_by(config: Any, policy: Policy) -> Iterator[Meter]:  # noqa: ANN401
    """Within the block ``policy`` computes the attention of each layer, without a mask: every row sees every key.

    A layer for which it gives None keeps the model's own function, with the mask of that. ``config`` is the text
    decoder's. Gives what sums up the time.
    """

    def compute(own: Any, module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        began, (query, key, value, _) = time.perf_counter(), states
        scale, cap, sinks = _scaling(module, query, **kwargs), kwargs.get("softcap"), kwargs.get("s_aux")
        out = policy(Attention(module.layer_idx, query, key, value, scale, cap, sinks))
        given = own(module, *states, **kwargs) if out is None else (out.transpose(1, 2).contiguous(), None)
        meter.seconds += time.perf_counter() - began
        return given

    meter = Meter()
    with _standing_in(config, compute):
        yield meter


@contextmanager
def _standing_in(config: Any, function: Callable[..., Any]) -> Iterator[None]:  # noqa: ANN401
    """Within the block ``function(own, module, …)`` is called in place of ``own``, the function of ``config``."""
    name = config._attn_implementation  # noqa: SLF001  (the only name transformers gives it)
    instead = name + _STANDS_IN

    def called(module: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return function(_function(name, module), module, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(instead, called)
    config._attn_implementation = instead  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = name  # noqa: SLF001
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(instead, None)  # noqa: SLF001  (there is no way to unregister)


def stood_in(config: Any) -> bool:  # noqa: ANN401
    """Return whether another function stands in for the model's own now."""
    return _STANDS_IN in str(config._attn_implementation)  # noqa: SLF001


def implementation(config: Any) -> str:  # noqa: ANN401
    """Return the name of the attention function in use, also while others stand in for it."""
    return str(config._attn_implementation).split(_STANDS_IN, maxsplit=1)[0]  # noqa: SLF001


def _function(own: str, module: Any) -> Any:  # noqa: ANN401
    if own == "eager":  # it is no entry of the interface: each family has its own
        return sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[own]


def _scaling(module: Any, query: torch.Tensor, **kwargs: Any) -> float:  # noqa: ANN401
    return float(kwargs.get("scaling") or getattr(module, "scaling", None) or query.shape[-1] ** -0.5)


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
    scaling = _scaling(module, picked, **kwargs)
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
