"""``project_kv``: a layer's K and V from its input, as the layer's own forward makes them."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.passes import layer_calls
from nbkv.models.projection.project import CapturingCache, learn, project_kv


def inputs_of(adapter, ids, cache):
    """Return what goes into each layer when ``ids`` are run."""
    found = []

    def run(calls):
        hidden = calls[0].hidden
        for index, call in enumerate(calls):
            found.append(hidden)
            hidden = adapter.walk.layer(index, call, hidden)
        return hidden

    adapter.forward(ids, cache, start=0, runner=run)
    return found


def test_every_family_gets_its_own_kv_bit_for_bit(session_of, family):
    adapter = session_of(family, strategy="full").adapter
    if adapter.walk is None or not adapter.capabilities.prefix:
        pytest.skip("it cannot be walked")
    ids, cache = adapter.tensor(range(5, 42)), GrowingCache()
    inputs = inputs_of(adapter, ids, cache)
    calls = layer_calls(adapter, ids, CapturingCache(), start=0)
    feeds = learn(adapter)
    for index, layer in enumerate(cache.layers):
        if layer.keys is None:
            continue
        keys, values = project_kv(adapter.walk.layers[index], calls[index], inputs[index], feeds[index])
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)


def test_positions_are_those_of_the_call(session_of):
    adapter = session_of("llama", strategy="full").adapter
    ids, cache = adapter.tensor(range(5, 42)), GrowingCache()
    inputs = inputs_of(adapter, ids, cache)
    calls, feeds = layer_calls(adapter, ids[20:], CapturingCache(), start=20), learn(adapter)
    for index, layer in enumerate(cache.layers):
        sides = project_kv(adapter.walk.layers[index], calls[index], inputs[index][:, 20:], feeds[index])
        for mine, whole in zip(sides, (layer.keys, layer.values), strict=True):
            torch.testing.assert_close(mine, whole[:, :, 20:], atol=1e-5, rtol=1e-5)


def test_queries_are_not_computed(session_of, monkeypatch):
    adapter = session_of("qwen3", strategy="full").adapter
    attention = adapter.walk.layers[0].self_attn
    feeds = learn(adapter)[0]
    assert feeds.idle == (attention.q_proj,)
    assert set(feeds.used) == {attention.k_proj, attention.v_proj}
    assert feeds.common
    (call, *_) = layer_calls(adapter, adapter.tensor([3, 4]), CapturingCache(), start=0)
    ran = []
    handle = attention.q_proj.register_forward_hook(lambda *_: ran.append(float(_[2].abs().max())))
    project_kv(adapter.walk.layers[0], call, call.hidden, feeds)
    handle.remove()
    assert ran == [0.0]
    assert "forward" not in vars(attention.q_proj)


def test_what_was_found_out_is_found_out_again_for_other_weights(make_model, tokenizer):
    with nbkv.load(make_model("llama"), tokenizer=tokenizer, strategy="full") as session:
        adapter = session.adapter
        before = learn(adapter)
        assert learn(adapter) is before
        with torch.no_grad():
            adapter.model.lm_head.weight.mul_(1.5)
        assert learn(adapter) is not before
