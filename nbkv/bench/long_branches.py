"""What a store holds of several branches that are each longer than what they share: the case of two-part attention.

Their K/V are laid out, not computed: bytes are asked here, not seconds.
"""

from __future__ import annotations

import torch

from nbkv.kv import Space
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.memory import MemoryStore

BRANCHES = 6


def held(adapter: ModelAdapter, prefix: int, tail: int) -> str:
    """Return a line about ``BRANCHES`` branches of ``tail`` tokens each over one ``prefix`` of so many tokens."""
    store, space, copied = MemoryStore(limit=2**60), Space(adapter.name, str(adapter.dtype)), 0
    branch_at = adapter.branch_at if adapter.capabilities.branches else None
    for branch in range(BRANCHES):
        ids = (*range(prefix), *(-1 - branch for _ in range(tail)))
        lease = store.take(space, ids, len(ids), adapter.growing, branch_at=branch_at)
        _lay(adapter, lease.buffer, lease.matched, len(ids))  # type: ignore[arg-type]  # the adapter's own
        copied += lease.copied
        store.give(lease, ids)
    token = int(store.ls()["bytes"].iloc[0]) // tail
    mine, theirs = store.nbytes / 2**20, BRANCHES * (prefix + tail) * token / 2**20
    what = f"{BRANCHES} branches of {tail} tokens over {prefix}"
    return f"{what}: {mine:.0f} MiB in the store, {theirs:.0f} MiB as copies; {copied} tokens copied"


def _lay(adapter: ModelAdapter, cache: GrowingCache, start: int, stop: int) -> None:
    """Make room for ``[start, stop)`` in every layer, and leave it as it is."""
    found = adapter.capabilities
    cache.extend(adapter.n_layers)
    for layer, (heads, *widths) in enumerate(zip(found.kv_heads, found.key_dim, found.value_dim, strict=True)):
        sides = (torch.empty(1, dtype=adapter.dtype, device=adapter.device) for _ in widths)
        shaped = [side.expand(heads, stop - start, width) for side, width in zip(sides, widths, strict=True)]
        cache.room(layer, start, *shaped)
