"""Proves that tokens of several sequences can run in one pass: no sequence may see or crowd out another."""

from __future__ import annotations

import torch

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.packed import Bundle, Feed
from nbkv.models.probing.prompt import made_up_ids
from nbkv.show.units import plural

_SHARED, _OWN = 7, (1, 4, 6)  # tokens
_EXACT = 1e-4  # house rule 1


def why_not_packed(adapter: ModelAdapter) -> str:
    """Return why sequences cannot share passes; empty if each gives the logits it has alone.

    Three sequences behind one prefix and one without any run together, then each one token more.
    """
    if not adapter.packs:
        return adapter.capabilities.refused.get("ranges", "its attention is not computed over keys in several places")
    vocabulary, (most, long) = int(adapter.config.vocab_size), (max(_OWN), _SHARED + max(_OWN) + 1)
    if adapter.capabilities.stable_context < long:
        return f"its context is {plural(adapter.capabilities.stable_context, 'token')}"
    shared = made_up_ids(_SHARED, vocabulary)
    owns = [made_up_ids(most + 1, vocabulary, step=step) for step in (31, 37, 41, 43)]
    try:
        prefix = adapter.growing()
        adapter.prefill(shared, prefix)
        bundles = (Bundle([prefix.read(0, 3), prefix.read(3, _SHARED)], adapter.n_layers), Bundle((), adapter.n_layers))
        feeds = [Feed(bundles[0], bundles[0].add(), own[:n]) for own, n in zip(owns, _OWN, strict=False)]
        feeds.append(Feed(bundles[1], bundles[1].add(), owns[3][:most]))
        first = adapter.packed(feeds)
        later = [Feed(each.bundle, each.slot, owns[at][len(each.ids) :][:1]) for at, each in enumerate(feeds)]
        then = adapter.packed(later)
        error = split = 0.0
        for at, feed in enumerate(feeds):
            before = shared if feed.bundle.base else ()
            ids = adapter.tensor((*before, *owns[at][: len(feed.ids) + 1]))
            own = adapter.plain(ids)[-2:]
            error = max(error, scaled_error(torch.stack([first[at], then[at]]), own))
            split = max(split, _split_error(adapter, ids, own))
    except Exception as refusal:  # noqa: BLE001  (a family may refuse rows of several sequences in any way)
        return f"it does not run the tokens of several sequences in one pass ({type(refusal).__name__})"
    limit = _EXACT if adapter.dtype == torch.float32 else max(2 * split, 4 * float(torch.finfo(adapter.dtype).eps))
    return "" if error <= limit else f"in one pass with other sequences its logits differ by {error:.1e}"


def _split_error(adapter: ModelAdapter, ids: torch.Tensor, own: torch.Tensor) -> float:
    """Return the scaled error of ``own``, the last two logits, when each token runs in a pass of its own."""
    cache = adapter.growing()
    parts = [adapter.forward(token, cache, start=at) for at, token in enumerate(ids.split(1))]
    return scaled_error(torch.cat(parts[-2:]), own)
