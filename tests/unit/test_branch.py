"""A branch's cache and its attention in parts, against a cache that holds everything."""

import copy
from itertools import pairwise

import pytest
import torch
import transformers

from nbkv.kv import KV
from nbkv.models.caches.branch import BranchCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.probe import adapt

IDS = torch.arange(3, 123) * 7 % 190
BASE, CUT = 60, 100
FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "mistral", "cohere2", "phi", "gpt_oss"]


def made(make_model, family):
    """Return a small model; gpt-oss has sinks and windows in turn."""
    if family != "gpt_oss":
        return make_model(family)
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=199,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = transformers.GptOssForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_()
    return model


def whole(adapter):
    cache = GrowingCache()
    return cache, adapter.forward(IDS, cache, start=0, keep=len(IDS))


def branch(adapter, source, cuts=(0, 20, 21, BASE)):
    cache = BranchCache(BASE, adapter.n_layers)
    cache.share([source.read(start, stop) for start, stop in pairwise(cuts)])
    return cache


def passes(adapter, cache):
    """Run the rest: many tokens on nothing, many on some, then one by one."""
    cuts = (BASE, 90, CUT, *range(CUT + 1, len(IDS) + 1))
    return torch.cat([adapter.forward(IDS[a:b], cache, start=a, keep=b - a) for a, b in pairwise(cuts)])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_kv_equal_those_of_a_cache_that_holds_everything(make_model, family):
    adapter = adapt(made(make_model, family), family)
    assert adapter.capabilities.branches
    full, expected = whole(adapter)
    cache = branch(adapter, full)
    got = passes(adapter, cache)

    assert (got - expected[BASE:]).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    assert cache.length == len(IDS)
    mine, theirs = cache.read(0, len(IDS)), full.read(0, len(IDS))
    for one, other in zip((*mine.keys, *mine.values), (*theirs.keys, *theirs.values), strict=True):
        assert (one - other).abs().max() < 1e-4 * max(1.0, float(other.abs().max()))


def test_in_bfloat16_the_error_is_no_larger_than_that_of_one_attention(make_model):
    model = make_model("qwen3").to(torch.bfloat16)
    adapter, exact = adapt(model, "half"), adapt(copy.deepcopy(model).float(), "float")
    expected = whole(exact)[1][BASE:]
    full, _ = whole(adapter)
    mine = passes(adapter, branch(adapter, full)).float() - expected
    full.truncate(BASE)
    theirs = passes(adapter, full).float() - expected

    assert mine.square().mean() < 1.05 * theirs.square().mean()


@pytest.mark.parametrize("family", ["gemma3n", "gpt2"])
def test_models_whose_attention_is_not_only_over_their_own_kv_have_no_branches(make_model, family):
    assert not adapt(make_model(family), family).capabilities.branches


def test_the_models_own_function_is_back_also_after_an_error(make_model):
    adapter = adapt(make_model("llama"), "llama")
    before, (full, _) = adapter.config._attn_implementation, whole(adapter)
    cache = branch(adapter, full)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        adapter.forward(IDS[BASE:], cache, start=BASE, work=stop)
    assert adapter.config._attn_implementation == before


def filled(own):
    cache = BranchCache(BASE, 2)
    kv = GrowingCache()
    kv.write(0, counted(BASE))
    cache.share([kv.read(0, BASE)])
    cache.write(BASE, counted(own))
    return cache


def counted(n):
    layer = torch.arange(n, dtype=torch.float32)[None, :, None].expand(2, -1, 4)
    return KV((layer, layer), (layer, layer))


def test_positions_are_those_of_the_sequence_and_bytes_those_of_its_own():
    cache = filled(10)
    assert cache.length == cache.get_seq_length() == BASE + 10
    assert cache.nbytes == 2 * 2 * 2 * 64 * 4 * 4
    cache.reserve(BASE + 200)
    cache.write(BASE + 10, counted(60))
    assert cache.layers[0].capacity == 256
    cache.truncate(BASE + 5)
    cache.fit()
    assert cache.length == BASE + 5
    assert cache.layers[0].capacity == 64
    cache.crop(-2)
    assert cache.length == BASE + 3
    cache.truncate(0)
    assert cache.length == BASE


def test_reading_across_the_branch_point():
    cache = filled(10)
    assert cache.read(BASE - 3, BASE + 2).keys[0][0, :, 0].tolist() == [57, 58, 59, 0, 1]
    assert cache.read(BASE + 1, BASE + 3).keys[0].data_ptr() == cache.layers[0].keys[0, :, 1:].data_ptr()


def test_what_a_branch_cannot_do_is_refused_in_a_line():
    cache = filled(1)
    with pytest.raises(ValueError, match="give all before it"):
        cache.share([counted(BASE - 1)])
    with pytest.raises(ValueError, match="is shared"):
        cache.write(BASE - 1, counted(1))
    with pytest.raises(ValueError, match="take without branch_at"):
        cache.writing(torch.tensor([BASE]))
