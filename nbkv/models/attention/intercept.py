"""Replaces the attention function of a model while its layers run: to observe weights, or to compute them otherwise.

Transformers' attention modules pass queries and keys, rotated and with the cache joined, to the function that the
AttentionInterface names. For the length of a ``with`` block another function has that place; it may call the one it
replaces, before it shows the weights of a few query rows to whoever asked, or not at all. Functions replace each
other; below all of them is the model's own, or ours where a pass was given ranges of keys in place of a mask.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbkv.models.attention.layer import Attended, Attention, Policy
from nbkv.models.attention.masks import Ranges
from nbkv.models.attention.weights import in_strips
from nbkv.ops import row_attention

_STANDS_IN = "+nbkv"  # stands before the number of a function that has the place of the one named before it
_NUMBERS = count()  # no two are registered under one name, whatever thread they run in


OnAttention = Callable[[Attended], object]
# Called with a layer's index when its attention begins; returns the mask it is to use.
MaskOf = Callable[[int], torch.Tensor | None]


@dataclass
class AttentionTimer:
    """The seconds that attention took, of all layers so far; on a GPU only those of asking for it."""

    seconds: float = 0.0


@contextmanager
def watched(
    config: Any,  # noqa: ANN401  (as transformers calls attention)
    which: torch.Tensor,
    on_attention: OnAttention,
    mask_of: MaskOf | None = None,
    at_once: int | None = None,
) -> Iterator[None]:
    """Within the block ``on_attention`` is shown, for each layer, the weights of the query rows at indices ``which``.

    It is called several times a layer where there are many rows: with ``at_once`` of them, or with so many that their
    weights take no more memory than the layer's K/V. ``config`` is the text decoder's. ``mask_of`` gives each layer its
    mask, where layers differ in what they hold; without a mask of the caller's, models make none for an attention
    function that is wrapped.
    """

    def observe(own: Any, module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
        *tensors, mask = states
        if mask_of is not None:
            mask = mask_of(module.layer_idx)
        given = own(module, *tensors, mask, **kwargs)
        seen = _attention(module, *tensors, **kwargs)
        for rows, weights in in_strips(seen, mask, which.to(seen.query.device), at_once):
            on_attention(Attended(seen.layer, rows, weights, seen.value[0], given[0][0, rows]))
        return given

    with replaced_attention(config, observe):
        yield


@contextmanager
def computed_by(config: Any, policy: Policy) -> Iterator[AttentionTimer]:  # noqa: ANN401  (as transformers calls attention)
    """Within the block ``policy`` computes the attention of each layer, without a mask: every row attends to every key.

    A layer for which it gives None keeps the model's own function, with the mask of that. ``config`` is the text
    decoder's. Gives what sums up the time.
    """

    def compute(own: Any, module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
        began = time.perf_counter()
        out = policy(_attention(module, *states[:3], **kwargs))
        given = own(module, *states, **kwargs) if out is None else (out.transpose(1, 2).contiguous(), None)
        meter.seconds += time.perf_counter() - began
        return given

    meter = AttentionTimer()
    with replaced_attention(config, compute):
        yield meter


@contextmanager
def replaced_attention(config: Any, function: Callable[..., Any], *, masks: bool = False) -> Iterator[None]:  # noqa: ANN401  (as transformers calls attention)
    """Within the block ``function(own, module, query, key, value, mask, …)`` replaces ``own``, that of ``config``.

    What it gives ``own`` as a mask may be ``Ranges``; another replacement below passes them on. With ``masks`` models
    make those that they make for ``own``, else none.
    """
    name = config._attn_implementation  # noqa: SLF001  (the only name transformers gives it)
    instead = f"{name}{_STANDS_IN}{next(_NUMBERS)}"

    def called(module: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
        return function(partial(_call, name), module, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(instead, called)
    if masks:
        ALL_MASK_ATTENTION_FUNCTIONS.register(instead, ALL_MASK_ATTENTION_FUNCTIONS[name])
    config._attn_implementation = instead  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = name  # noqa: SLF001
        for known in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
            known._global_mapping.pop(instead, None)  # noqa: SLF001  (there is no way to unregister)


def implementation(config: Any) -> str:  # noqa: ANN401  (as transformers calls attention)
    """Return the name of the attention function in use, also while others replace it."""
    return str(config._attn_implementation).split(_STANDS_IN, maxsplit=1)[0]  # noqa: SLF001


def _function(own: str, module: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
    if own == "eager":  # it is no entry of the interface: each family has its own
        return sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[own]


def _call(name: str, module: Any, *states: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as transformers calls attention)
    """Call the function ``name``; over ranges of keys ours in place of a model's own, which knows masks only."""
    mask = states[3] if len(states) > 3 else None  # noqa: PLR2004  (behind query, key and value)
    if not isinstance(mask, Ranges) or _STANDS_IN in name:
        return _function(name, module)(module, *states, **kwargs)
    seen = _attention(module, *states[:3], **kwargs)
    options: dict[str, Any] = {"scale": seen.scale, "softcap": seen.softcap, "sinks": seen.sinks}
    out = row_attention(seen.query, seen.key, seen.value, mask.upper, mask.lower, **options)[0]
    return out.transpose(1, 2).contiguous(), None


def _attention(
    module: Any,  # noqa: ANN401  (as transformers calls attention)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    **kwargs: Any,  # noqa: ANN401  (as transformers calls attention)
) -> Attention:
    scale = float(kwargs.get("scaling") or getattr(module, "scaling", None) or query.shape[-1] ** -0.5)
    return Attention(module.layer_idx, query, key, value, scale, kwargs.get("softcap"), kwargs.get("s_aux"))
