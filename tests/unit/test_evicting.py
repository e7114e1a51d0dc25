"""The cache that holds some tokens only: what is dropped is gone from memory, and from sight."""

from __future__ import annotations

import pytest
import torch

from nbkv.models.attention.intercept import watched
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.passes import over_slots
from nbkv.models.probing.eviction import why_not
from nbkv.models.probing.probe import adapt

FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "phi", "deepseek_v3", "granite", "starcoder2"]
REFUSED = {"bloom": "places", "falcon": "cannot be dropped", "gemma3n": "each other's"}


def nobody(_seen):
    message = "no row was to be looked at"
    raise AssertionError(message)


@pytest.fixture(scope="module")
def adapter_of(model_of):
    made = {}

    def get(family):
        if family not in made:
            made[family] = adapt(model_of(family), family)
        return made[family]

    return get


def filled(adapter, n, seed=0):
    ids = torch.randint(3, 190, (n,), generator=torch.Generator().manual_seed(seed))
    cache = EvictingCache(adapter.n_layers)
    over_slots(adapter, ids, cache, observe=nobody)
    return ids, cache


def chosen(layer, m, generator):
    heads, slots = layer.positions.shape
    return torch.stack([torch.randperm(slots, generator=generator)[:m].sort().values for _ in range(heads)])


def masked(adapter, ids, held):
    """The reference: a whole cache, and for each layer and head a mask that hides what ``held`` lacks."""
    whole, at = GrowingCache(), len(ids) - 1
    adapter.forward(ids[:-1], whole, start=0)
    dtype = torch.float32 if adapter.config._attn_implementation == "eager" else None

    def mask_of(layer):
        heads = adapter.capabilities.kv_heads[layer]
        seen = torch.zeros(heads, at + 1, dtype=torch.bool)
        for head in range(heads):
            seen[head, held[layer][head].long()] = True
        seen[:, at] = True
        if (window := adapter.capabilities.windows[layer]) is not None:
            seen[:, : at - window + 1] = False
        n_query = adapter.config.num_attention_heads
        mask = seen.repeat_interleave(n_query // heads, dim=0)[None, :, None]
        return mask if dtype is None else torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(dtype).min)

    with watched(adapter.config, torch.tensor([], dtype=torch.long), nobody, mask_of):
        return adapter.forward(ids[-1:], whole, start=at)[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_token_is_as_if_masked_for_each_head_apart(adapter_of, family):
    adapter, generator = adapter_of(family), torch.Generator().manual_seed(1)
    ids, cache = filled(adapter, 23)
    for layer in cache.layers:
        layer.keep(chosen(layer, 12, generator))
        layer.drop(torch.randint(0, 12, (len(layer.positions),), generator=generator))
        layer.drop(torch.randint(0, 11, (len(layer.positions),), generator=generator))
    more = torch.tensor([17])
    held = [layer.positions.clone() for layer in cache.layers]
    expected = masked(adapter, torch.cat([ids, more]), held)
    got = over_slots(adapter, more, cache, observe=nobody)

    assert float((got - expected).abs().max() / expected.abs().max().clamp(min=1)) < 1e-4
    assert [layer.length for layer in cache.layers] == [11] * adapter.n_layers


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_stretch_sees_what_is_kept_and_itself_by_true_position(adapter_of, family):
    adapter = adapter_of(family)
    _, cache = filled(adapter, 20)
    more = torch.randint(3, 190, (9,), generator=torch.Generator().manual_seed(5))
    for layer in cache.layers:
        layer.keep(chosen(layer, 12, torch.Generator().manual_seed(2)))
    one_by_one = cache.copy()
    together = over_slots(adapter, more, cache, observe=nobody)
    for token in more:
        last = over_slots(adapter, token[None], one_by_one, observe=nobody)

    assert float((together - last).abs().max() / last.abs().max().clamp(min=1)) < 1e-4
    assert cache.seen == one_by_one.seen == 29


@pytest.mark.parametrize(("family", "why"), REFUSED.items())
def test_what_cannot_drop_tokens_says_why(adapter_of, family, why):
    assert why in why_not(adapter_of(family))


def test_what_is_dropped_is_freed(adapter_of):
    adapter = adapter_of("llama")
    _, cache = filled(adapter, 200)
    token = sum(side.nbytes for layer in cache.layers for side in layer._sides) // cache.layers[0].capacity
    before = cache.nbytes
    for layer in cache.layers:
        layer.limit = 50
        layer.keep(torch.arange(50).expand(2, -1))
    storages = [side.untyped_storage().nbytes() for layer in cache.layers for side in layer._sides]

    assert sum(storages) == cache.nbytes == 50 * token
    assert before >= 200 * token
    assert before <= cache.peak <= before + 50 * token  # at most one layer's new buffers beside all the old ones


def test_a_buffer_grows_to_its_limit_and_not_beyond(adapter_of):
    adapter = adapter_of("llama")
    ids, cache = filled(adapter, 10)
    for layer in cache.layers:
        layer.limit = 14
        layer.keep(torch.arange(8).expand(2, -1))
    assert {layer.capacity for layer in cache.layers} == {14}
    over_slots(adapter, ids[:9], cache, observe=nobody)
    assert {layer.capacity for layer in cache.layers} == {17}  # more than the limit had to be held


def test_a_copy_is_a_cache_of_its_own(adapter_of):
    adapter = adapter_of("llama")
    _, cache = filled(adapter, 10)
    cache.layers[0].mark("note").fill_(3.0)
    twin, before = cache.copy(), cache.layers[0].keys.clone()
    twin.layers[0].keys.zero_()
    twin.layers[0].mark("note").zero_()

    assert torch.equal(cache.layers[0].keys, before)
    assert cache.layers[0].mark("note").eq(3.0).all()
    assert twin.nbytes == sum(layer.nbytes for layer in twin.layers) <= cache.nbytes


def test_what_is_noted_moves_with_its_slot(adapter_of):
    _, cache = filled(adapter_of("llama"), 12)
    layer = cache.layers[0]
    layer.mark("note").copy_(layer.positions)
    layer.keep(torch.tensor([[0, 3, 5, 9], [1, 2, 8, 11]]))
    layer.drop(torch.tensor([1, 0]))

    assert torch.equal(layer.mark("note").int(), layer.positions)
    assert [sorted(row) for row in layer.positions.tolist()] == [[0, 5, 9], [2, 8, 11]]
