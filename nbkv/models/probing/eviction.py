"""Whether tokens can be dropped from a model's cache one by one; tried on the model itself, as everything is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.passes import masked, over_slots
from nbkv.models.probing.prompt import made_up_ids
from nbkv.show.units import plural

_TOLERANCE = 1e-4  # house rule 1, of logits scaled by max(1, max|logit|)
_TOKENS = 14  # of the self-test
_DROPPED = (3, 4, 9)
_known: WeakKeyDictionary[ModelAdapter, str] = WeakKeyDictionary()


def why_not(adapter: ModelAdapter) -> str:
    """Return why tokens of ``adapter``'s cache cannot be dropped one by one; empty where it was tried and is right.

    Right is: the logits after a few dropped tokens are those of the same pass over a whole cache with these tokens
    masked, and every layer shows its attention. Tried once a model.
    """
    if adapter not in _known:
        _known[adapter] = _reason(adapter)
    return _known[adapter]


def _reason(adapter: ModelAdapter) -> str:
    found = adapter.capabilities
    if not found.prefix:
        return found.why_not("prefix")
    if found.shared_kv:
        return "its layers use each other's K and V"
    if found.positions not in {"rotary", "absolute"} or not adapter.tells_positions:
        return "its attention goes by places in the cache, which dropping tokens changes"
    try:
        error, layers = _trial(adapter)
    except Exception as refusal:  # noqa: BLE001  (a family may refuse a cache or a mask in any way)
        return f"tokens cannot be dropped from its cache ({type(refusal).__name__})"
    if layers != found.n_layers:
        return f"its attention shows itself in {layers} of {plural(found.n_layers, 'layer')}"
    limit = _TOLERANCE if adapter.dtype == torch.float32 else 16 * torch.finfo(adapter.dtype).eps
    return "" if error <= limit else f"without dropped tokens its logits differ by {error:.1e} (limit {limit:.1e})"


def _trial(adapter: ModelAdapter) -> tuple[float, int]:
    """Return the scaled error of logits after dropping, and how many layers showed their attention."""
    ids = adapter.tensor(made_up_ids(_TOKENS, adapter.config.vocab_size))
    cache, whole, shown = EvictingCache(adapter.n_layers), GrowingCache(), set()

    def observe(attended: Attended) -> None:
        shown.add(attended.layer)

    over_slots(adapter, ids[:-1], cache, observe=observe)
    adapter.forward(ids[:-1], whole, start=0)
    left = torch.tensor([i for i in range(_TOKENS - 1) if i not in _DROPPED], device=adapter.device)
    for layer in cache.layers:
        layer.keep(left.to(layer.positions.device).expand(len(layer.positions), -1))
    got = over_slots(adapter, ids[-1:], cache, observe=observe, observed=1)
    return scaled_error(got, masked(adapter, ids[-1:], whole, _DROPPED)), len(shown)
