"""The cache of states: clones stand by themselves, a broken pass leaves none, its memory is what it says."""

from __future__ import annotations

import pytest
import torch
import transformers

from nbkv.models.probing.probe import adapt

SMALL = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 0,
}
IDS = torch.arange(2, 42)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def adapter():
    torch.manual_seed(0)
    model = transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(**SMALL)).eval()
    return adapt(model, "small")


def test_a_clone_is_not_changed_by_what_follows(adapter):
    cache = adapter.new_cache()
    adapter.forward(IDS[:20], cache, start=0)
    states = cache.checkpoint()
    before = [state.clone() for layer in states.layers for state in layer.values()]
    adapter.forward(IDS[20:], cache, start=20)
    cache.resume(states)
    adapter.forward(IDS[20:].flip(0), cache, start=20)

    after = [state for layer in states.layers for state in layer.values()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert states.at == 20
    assert states.nbytes == sum(state.nbytes for state in after) == adapter.capabilities.state_bytes


def test_a_pass_that_is_broken_off_leaves_no_states(adapter):
    cache = adapter.new_cache()
    adapter.forward(IDS[:20], cache, start=0)
    with pytest.raises(RuntimeError), cache.advancing(5):
        raise RuntimeError

    assert cache.length == 20
    assert cache.checkpoint() is None
    assert cache.release() is None
    with pytest.raises(ValueError, match="no states to go on from after 20 tokens"):
        adapter.forward(IDS[20:], cache, start=20)


def test_states_are_given_away_without_a_copy(adapter):
    cache = adapter.new_cache()
    adapter.forward(IDS, cache, start=0)
    kv_bytes = cache.nbytes - adapter.capabilities.state_bytes
    live = [state.data_ptr() for layer in cache.layers if hasattr(layer, "states") for state in layer.states().values()]
    given = cache.release()

    assert [state.data_ptr() for layer in given.layers for state in layer.values()] == live
    assert cache.nbytes == kv_bytes
    assert cache.length == len(IDS)


def test_a_cut_keeps_kv_and_no_states(adapter):
    cache = adapter.new_cache()
    adapter.forward(IDS, cache, start=0)
    cache.truncate(10)

    assert cache.length == 10
    assert cache.checkpoint() is None
    assert cache.read(0, 10).keys[1].shape == (2, 10, 16)
    assert cache.read(0, 10).keys[0].shape[0] == 0


def test_the_record_goes_through_json(adapter):
    record = adapter.record
    assert type(record).from_dict(record.to_dict()).capabilities == record.capabilities
    assert record.capabilities.states == "passes"
