"""Attention over ranges of keys: the same logits as under a mask by true position, and no mask."""

from dataclasses import replace

import pytest
import torch

from nbkv.models import masks
from nbkv.models.attention import watched
from nbkv.models.cache import GrowingCache
from nbkv.models.probe import adapt

IDS = torch.arange(3, 103) * 7 % 60
ROWS = torch.tensor([1, 2, 40, 41, 77, 99])


def recomputed(adapter, *, ranges):
    adapter = replace(adapter, capabilities=replace(adapter.capabilities, ranges=ranges))
    cache = GrowingCache()
    adapter.forward(IDS, cache, start=0)
    for layer in cache.layers:
        layer.keys[:, :, ROWS] += 1.0
    return adapter.recompute(IDS[ROWS], ROWS, cache, keep=len(ROWS)), cache.read(0, 100)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral", "cohere2", "phi", "gemma3n"])
def test_rows_run_again_over_ranges_equal_those_under_a_mask(make_model, family):
    adapter = adapt(make_model(family), family)
    assert adapter.capabilities.ranges
    under, masked = recomputed(adapter, ranges=False)
    over, ranged = recomputed(adapter, ranges=True)
    assert (under - over).abs().max() < 1e-5 * max(1.0, float(under.abs().max()))
    for one, other in zip(masked.keys, ranged.keys, strict=True):
        assert (one - other).abs().max() < 1e-4


def test_no_mask_is_made(make_model, monkeypatch):
    adapter = adapt(make_model("llama"), "llama")
    monkeypatch.setattr(masks, "allowed", lambda *_: pytest.fail("a mask was made"))
    recomputed(adapter, ranges=True)


def test_while_attention_is_watched_the_models_own_function_runs_under_a_mask(make_model):
    adapter = adapt(make_model("llama"), "llama")
    seen, plain = [], recomputed(adapter, ranges=True)[0]
    with watched(adapter.config, torch.arange(len(ROWS)), seen.append):
        under, _ = recomputed(adapter, ranges=True)
    assert (under - plain).abs().max() < 1e-5
    future = torch.arange(100) > ROWS[:, None]
    rows = [one.weights for one in seen if one.weights.shape[1:] == (len(ROWS), 100)]
    assert len(rows) >= adapter.n_layers
    assert not any(weights[:, future].any() for weights in rows[-adapter.n_layers :])


def test_the_models_own_function_is_back_also_after_an_error(make_model):
    adapter = adapt(make_model("llama"), "llama")
    before = adapter.config._attn_implementation

    def fail(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        adapter.recompute(IDS[ROWS], ROWS, GrowingCache(), before=fail)
    assert adapter.config._attn_implementation == before


@pytest.mark.parametrize(
    ("window", "chunk", "block"), [(None, None, None), (5, None, None), (None, 8, None), (9, None, 4)]
)
def test_edges_are_those_of_a_mask_written_out(window, chunk, block):
    rows = torch.arange(30)
    lower, upper = masks.edges(rows, window, chunk, block)
    for row in range(30):
        seen = [
            key
            for key in range(40)
            if (key <= row if block is None else key // block <= row // block)
            and (window is None or row - key < window)
            and (chunk is None or key // chunk == row // chunk)
        ]
        assert list(range(int(lower[row]), int(upper[row]))) == seen
