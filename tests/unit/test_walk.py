from __future__ import annotations

import copy

import pytest
import torch

import nbkv
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.identity.fingerprint import fingerprint
from nbkv.models.probing.probe import adapt


def ids_of(n=40, seed=3):
    return torch.randint(2, 199, (n,), generator=torch.Generator().manual_seed(seed))


def close(got, expected, limit=1e-4):
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0)) < limit


def test_walk_gives_the_models_own_logits(model_of, family):
    model = model_of(family)
    adapter, ids = adapt(model, family), ids_of()
    with torch.no_grad():
        expected = model(ids[None]).logits[0]

    assert adapter.capabilities.walk
    cache = GrowingCache()
    got = torch.cat([adapter.forward(ids[a:b], cache, start=a, keep=b - a) for a, b in ((0, 17), (17, 39), (39, 40))])
    assert close(got, expected)


def test_scattered_rows_see_by_true_position(model_of, family):
    model = model_of(family)
    adapter, ids, rows = adapt(model, family), ids_of(), torch.tensor([2, 3, 11, 25, 39])
    if adapter.capabilities.positions == "alibi":
        pytest.skip("ALiBi counts positions by mask: refused for everything but prefix")
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    cache = GrowingCache()
    adapter.forward(ids, cache, start=0)
    for layer in cache.layers:
        layer.keys[:, :, rows] = 9.0
        layer.values[:, :, rows] = 9.0
    got = adapter.recompute(ids[rows], rows, cache, keep=len(rows))

    assert close(got, expected[rows])
    assert cache.length == 40


def test_eager_attention_sees_the_same(make_model):
    model = make_model("qwen3", attn_implementation="eager")
    adapter, ids, rows = adapt(model, "eager"), ids_of(), torch.tensor([5, 30])
    cache = GrowingCache()
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    adapter.forward(ids, cache, start=0)

    assert close(adapter.recompute(ids[rows], rows, cache, keep=2), expected[rows])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_half_precision_is_as_good_as_the_models_own_split_pass(make_model, family):
    model = make_model(family).to(torch.bfloat16)
    adapter, ids = adapt(model, family), ids_of()
    with torch.no_grad():
        full = model(ids[None]).logits[0].float()
        from transformers.cache_utils import DynamicCache

        theirs = DynamicCache(config=model.config)
        model(ids[None, :25], past_key_values=theirs)
        own = model(ids[None, 25:], past_key_values=theirs).logits[0].float()
    cache = GrowingCache()
    adapter.forward(ids[:25], cache, start=0)
    got = adapter.forward(ids[25:], cache, start=25, keep=15).float()

    assert adapter.capabilities.walk
    assert (got - full[25:]).abs().max() <= (own - full[25:]).abs().max() * 1.01 + 1e-6


def test_the_model_is_as_before_also_after_an_exception(make_model):
    model = make_model("llama")
    before = copy.deepcopy({name: type(module) for name, module in model.named_modules()})
    layers, hooks = model.model.layers, [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    adapter = adapt(model, "llama")

    class Boom(Exception):
        pass

    def burst(index, rows):
        if index == 2:
            raise Boom

    work = __import__("nbkv.models.adapter", fromlist=["Work"]).Work(on_layer=burst)
    with pytest.raises(Boom):
        adapter.forward(ids_of(), GrowingCache(), start=0, work=work)

    assert model.model.layers is layers
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert work.token_layers == 3 * 40


def test_hooks_of_the_user_fire_once_with_real_data(make_model):
    model, seen = make_model("llama"), []
    adapter, ids = adapt(model, "llama"), ids_of()
    with torch.no_grad():
        model.model.layers[1].register_forward_hook(lambda module, args, out: seen.append(out))
        model(ids[None])
        adapter.forward(ids, GrowingCache(), start=0)

    assert len(seen) == 2
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


def test_a_model_in_training_mode_is_served_without_dropout_and_left_in_it(make_model):
    model = make_model("gpt2").train()
    adapter, ids = adapt(model, "gpt2"), ids_of()
    got = adapter.forward(ids, GrowingCache(), start=0)

    assert model.training
    with torch.no_grad():
        assert close(got, model.eval()(ids[None]).logits[0, -1:])


def test_capabilities_are_read_off(model_of):
    def of(family):
        return adapt(model_of(family), family).capabilities

    assert of("llama").positions == "rotary"
    assert of("llama").groups == 2
    assert of("gpt2").positions == "absolute"
    assert set(of("mistral").windows) == {8}
    assert set(of("gemma2").windows) == {8, None}
    assert of("llama").context == 512
    assert of("llama").kv_heads == (2, 2, 2, 2)
    assert of("qwen3").key_dim == (16, 16, 16, 16)


def test_what_cannot_be_moved_is_named(model_of):
    def reason(family):
        capabilities = adapt(model_of(family), family).capabilities
        assert capabilities.prefix
        assert not capabilities.relocation
        return capabilities.why_not("relocation")

    assert "learned positions" in reason("gpt2")
    assert "learned positions" in reason("opt")
    assert "ALiBi" in reason("bloom")
    assert "latent" in reason("deepseek_v3")


def test_a_recurrent_model_whose_states_cannot_be_cloned_is_served_plainly_and_says_so():
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32}
    config = RecurrentGemmaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, attention_window_size=8)
    adapter = adapt(RecurrentGemmaForCausalLM(config).eval(), "griffin")

    assert not adapter.capabilities.prefix
    assert "prefix reuse is off" in adapter.notes[0]


def test_without_any_cache_to_trust_every_token_is_a_full_pass(monkeypatch, words, tokenizer):
    from transformers import MambaConfig, MambaForCausalLM

    class Broken:
        def __init__(self, _config):
            message = "this family's cache is broken"
            raise RuntimeError(message)

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=199, hidden_size=32, num_hidden_layers=2, eos_token_id=None)
    model = MambaForCausalLM(config).eval()
    expected = model.generate(torch.tensor([tokenizer(words(9))["input_ids"]]), max_new_tokens=5, pad_token_id=1)
    monkeypatch.setattr("nbkv.models.adapter.FamilyCache", Broken)
    with nbkv.load(model, tokenizer=tokenizer, strategy="full") as session:
        result = session.generate(words(9), max_new_tokens=5)

    assert list(result.token_ids) == expected[0, 10:].tolist()
    assert any("no cache" in note for note in result.notes)


def test_fingerprint_follows_the_weights(make_model):
    one, same, other = make_model("llama"), make_model("llama"), make_model("llama", seed=1)

    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(same.to(torch.bfloat16))


def test_a_weight_written_in_place_changes_the_fingerprint(make_model):
    model = make_model("llama")
    adapter = adapt(model, "llama")
    before = adapter.fingerprint
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(1.0)

    assert adapter.fingerprint != before


def test_positions_are_left_to_families_that_count_them_otherwise():
    from transformers import RobertaConfig, RobertaForCausalLM

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=199,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        is_decoder=True,
    )
    model = RobertaForCausalLM(config).eval()
    adapter, ids, cache = adapt(model, "roberta"), ids_of(), GrowingCache()
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    got = torch.cat([adapter.forward(ids[a:b], cache, start=a, keep=b - a) for a, b in ((0, 30), (30, 40))])

    assert not adapter.tells_positions
    assert close(got, expected)


def test_a_model_that_looks_ahead_is_refused():
    from transformers import XLMConfig, XLMWithLMHeadModel

    torch.manual_seed(0)
    model = XLMWithLMHeadModel(XLMConfig(vocab_size=199, emb_dim=64, n_layers=2, n_heads=4)).eval()
    with pytest.raises(nbkv.UnsupportedModel, match="not causal"):
        adapt(model, "xlm")
