"""``project_kv``: keys and values of one layer from what goes into that layer, by the layer's own code.

The layer is run on the rows until it gives K and V to its cache, and no further: norm, projections, key norm and rotary
embedding are the model's own, for any family, at the positions the call was made with. What is computed on that way
without being needed, such as the queries, is found out by trying: a linear layer whose output can be replaced by zeros
without changing K and V is not run. Where kernels are used, layers of the usual kind are projected by one (``fused``).
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer

from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.base import SequenceCache
from nbkv.models.capture import Captured, Sides
from nbkv.models.passes import layer_calls
from nbkv.models.walk import LayerCall

_IDS = 4  # tokens tried on
_known: weakref.WeakKeyDictionary[nn.Module, tuple[str, list[KVLinears]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class KVLinears:
    """Linear layers between a decoder layer's input and its K and V: ``used`` ones, and ``idle`` ones K/V do without.

    ``common``: the used ones are two that read the same tensor and whose results become K and V (none is used twice,
    none feeds another); only then can what they read be held in a smaller space.
    """

    used: tuple[nn.Linear, ...] = ()
    idle: tuple[nn.Linear, ...] = ()
    common: bool = False


class _CapturingLayer(DynamicLayer):
    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Sides:  # noqa: ANN401, ARG002  (as transformers calls a cache)
        raise Captured((key_states, value_states))


class CapturingCache(SequenceCache, Cache):
    """An empty cache that catches K and V of whatever layer is run."""

    def __init__(self) -> None:
        """Have as many layers as are asked for."""
        super().__init__(layer_class_to_replicate=_CapturingLayer)


def project_kv(
    layer: Callable[..., Any],
    call: LayerCall,
    hidden: torch.Tensor,
    feeds: KVLinears | None = None,
    replaced: Mapping[nn.Linear, Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> Sides | None:
    """Return K and V ``[1, H, n, D]`` that ``layer`` makes of its input ``hidden`` ``[..., n, d]`` (KV-Direct, HCache).

    ``call`` is how the model calls that layer for these rows (``passes.layer_calls``); its cache must catch. None if
    the layer makes none of its own. Bitwise what the layer's forward makes of the same rows in one pass. ``replaced``
    modules answer as told.
    """
    answers = dict(replaced or {})
    if feeds is not None:
        answers |= {module: _zeros(module) for module in feeds.idle}
    try:
        with torch.no_grad(), replaced_linears(answers):
            layer(hidden, *call.args, **call.kwargs)
    except Captured as caught:
        traceback.clear_frames(caught.__traceback__)  # else its frames hold K and V until garbage is collected
        return caught.take()
    return None


@contextmanager
def replaced_linears(replaced: Mapping[nn.Linear, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
    """Within the block each module answers as the function it is mapped to."""
    try:
        for module, function in replaced.items():
            module.__dict__["forward"] = function
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


@contextmanager
def reading(module: nn.Module, observe: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within the block ``observe`` is given the input of ``module``."""
    handle = module.register_forward_pre_hook(lambda _, given: observe(given[0]))
    try:
        yield
    finally:
        handle.remove()


def learn(adapter: ModelAdapter) -> list[KVLinears]:
    """Return the feeds of each layer of ``adapter``'s model, found out once on a few tokens for these very weights."""
    found = _known.get(adapter.model)
    if found is None or found[0] != adapter.fingerprint:
        calls = layer_calls(adapter, adapter.tensor(range(1, _IDS + 1)), CapturingCache(), start=0)
        assert adapter.walk is not None  # noqa: S101  (its layers were called)
        with adapter.evaluating():
            heads = adapter.capabilities.kv_heads  # layers that use the K/V of others may have none, or be left out
            own = [index < len(heads) and heads[index] > 0 for index in range(adapter.n_layers)]
            each = zip(adapter.walk.layers, calls, own, strict=True)
            found = adapter.fingerprint, [_feeds(layer, call) if has else KVLinears() for layer, call, has in each]
        _known[adapter.model] = found
    return found[1]


def _feeds(layer: nn.Module, call: LayerCall) -> KVLinears:
    hidden = call.hidden + torch.linspace(0.1, 1.0, call.hidden.shape[-1]).to(call.hidden)  # nothing is zero by chance
    seen: list[tuple[nn.Linear, int]] = []
    plain = [module for module in layer.modules() if _is_plain(module)]
    handles = [module.register_forward_pre_hook(lambda me, given: seen.append((me, id(given[0])))) for module in plain]
    try:
        expected = project_kv(layer, call, hidden)
    finally:
        for handle in handles:
            handle.remove()
    if expected is None:
        return KVLinears()
    called = list(dict.fromkeys(module for module, _ in seen))
    idle = tuple(module for module in called if _does_without(layer, call, hidden, module, expected))
    used = tuple(module for module in called if module not in idle)
    given = [source for module, source in seen if module in used]
    return KVLinears(used, idle, common=len(used) == len(given) == 2 and given[0] == given[1])  # noqa: PLR2004  (K and V)


def _does_without(layer: nn.Module, call: LayerCall, hidden: torch.Tensor, module: nn.Linear, expected: Sides) -> bool:
    try:
        got = project_kv(layer, call, hidden, KVLinears(idle=(module,)))
    except RuntimeError:  # what follows it may not take zeros that share their memory
        return False
    return got is not None and all(torch.equal(mine, theirs) for mine, theirs in zip(got, expected, strict=True))


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and "forward" not in vars(module) and not module.weight.is_meta


def _zeros(module: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda given: given.new_zeros(1).expand(*given.shape[:-1], module.out_features)
