"""Whether tokens can be dropped from a model's cache one by one; tried on the model itself, as everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.passes import run

if TYPE_CHECKING:
    from nbkv.models.adapter import ModelAdapter

_TOLERANCE = 1e-4  # house rule 1, of logits scaled by max(1, max|logit|)
_TOKENS = 14  # of the self-test
_DROPPED = (3, 4, 9)


def why_not(adapter: ModelAdapter) -> str:
    """Return why tokens of ``adapter``'s cache cannot be dropped one by one; empty where it was tried and is right.

    Right is: the logits after a few dropped tokens are those of the same pass over a whole cache with these tokens
    masked, and every layer shows its attention.
    """
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
        return f"its attention shows itself in {layers} of {found.n_layers} layers"
    limit = _TOLERANCE if adapter.dtype == torch.float32 else 16 * torch.finfo(adapter.dtype).eps
    return "" if error <= limit else f"without dropped tokens its logits differ by {error:.1e} (limit {limit:.1e})"


def _trial(adapter: ModelAdapter) -> tuple[float, int]:
    """Return the scaled error of logits after dropping, and how many layers showed their attention."""
    ids = adapter.tensor([(7919 * i) % adapter.config.vocab_size for i in range(1, _TOKENS + 1)])
    cache, whole, shown = EvictingCache(adapter.n_layers), GrowingCache(), set()

    def see(seen: Attended) -> None:
        shown.add(seen.layer)

    run(adapter, ids[:-1], cache, see=see)
    adapter.forward(ids[:-1], whole, start=0)
    left = torch.tensor([i for i in range(_TOKENS - 1) if i not in _DROPPED], device=adapter.device)
    for layer in cache.layers:
        layer.keep(left.to(layer.positions.device).expand(len(layer.positions), -1))
    got = run(adapter, ids[-1:], cache, see=see, look=1)
    expected = adapter.unseeing(ids[-1:], whole, _DROPPED)
    error = (got - expected).float().abs().max() / expected.float().abs().max().clamp(min=1.0)
    return float(error), len(shown)
