"""House rule 1: what an exact strategy may differ from full, for every family."""

from __future__ import annotations

import pytest
import torch
from random_models import FAMILIES

import nbkv
from nbkv.models.caches.growing import GrowingCache
from nbkv.registry import strategies as registry

EXACT = [name for name in registry.names() if registry.get(name).exact and name != "full"]
# One family a capability: windows, two kinds of layers, absolute positions, biases in place of positions, latent K/V,
# K/V of other layers, three axes, experts. Every family is tried under prefix, which other exact strategies build on.
CAPABILITIES = "llama mistral gemma3 gpt2 bloom deepseek_v3 gemma3n qwen2_vl mixtral".split()
EXACT_ON_FAMILIES = pytest.mark.parametrize(
    ("strategy", "family"),
    [(name, family) for name in EXACT for family in (sorted(FAMILIES) if name == "prefix" else CAPABILITIES)],
)


def found(result, strategy):
    """Return how many prompt tokens were held; forms other than KV may have to be computed again."""
    again = 0 if registry.get(strategy).family == "prefix" else result.tokens.recomputed
    return result.tokens.reused + again


def generated(model, ids, n):
    """Return transformers' own greedy answer."""
    asked = torch.tensor([ids])
    out = model.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=n, do_sample=False, pad_token_id=1
    )
    return out[0, len(ids) :].tolist()


def decided(result, model):
    """How many tokens of the answer full decides (house rule 1), and those that it gives behind prompt and answer."""
    with torch.no_grad():
        ids = torch.tensor([(*result.prompt_ids, *result.token_ids)])
        logits = model(ids, use_cache=False).logits[0, len(result.prompt_ids) - 1 : -1].float()
    top = logits.topk(2).values
    ties = (top[:, 0] - top[:, 1]) / logits.abs().amax(-1).clamp(min=1.0) < 2e-4
    return int(ties.nonzero()[0]) if bool(ties.any()) else len(logits), logits.argmax(-1).tolist()


def agrees(result, model):
    """House rule 1: the same greedy tokens up to the first near-tie of full."""
    tie, expected = decided(result, model)
    return list(result.token_ids)[:tie] == expected[:tie] and tie > 0


@EXACT_ON_FAMILIES
def test_chats_of_six_turns(session_of, words, family, strategy):
    session = session_of(family, strategy=strategy)
    chat = session.chat()
    for turn in range(6):
        result = chat.send(words(9, seed=turn), max_new_tokens=7)

        assert agrees(result, session.adapter.model)
        if turn:
            before = chat.results[turn - 1]
            assert result.prompt_ids[: len(before.prompt_ids)] == before.prompt_ids
            assert found(result, strategy) == len(before.prompt_ids) + len(before.token_ids) - 1
            assert not any("copied" in note for note in result.notes)
    tie, _ = decided(result, session.adapter.model)
    expected = generated(session.adapter.model, list(result.prompt_ids), len(result.token_ids))
    assert list(result.token_ids)[:tie] == expected[:tie]


@EXACT_ON_FAMILIES
def test_branching_prompts(session_of, words, family, strategy):
    session = session_of(family, strategy=strategy)
    shared, held = words(25), []
    for seed in (1, 2, 1, 3, 2, 1):
        result = session.generate(shared + words(6, seed=seed) + words(seed, seed=51), max_new_tokens=6)

        assert agrees(result, session.adapter.model)
        held.append(found(result, strategy))
    assert min(held[1:]) >= 26


@EXACT_ON_FAMILIES
def test_logits_of_a_warm_prompt(session_of, words, family, strategy):
    session = session_of(family, strategy=strategy)
    session.generate(words(30), max_new_tokens=5)
    table = session.compare(words(20) + words(15, seed=8), ["full", strategy], repeat=1, max_new_tokens=3)
    ids = torch.tensor([table.results[1].prompt_ids])
    with torch.no_grad():
        expected = session.adapter.model(ids).logits[0, -1]
    cache = GrowingCache()
    got = session.adapter.forward(ids[0], cache, start=0)[-1]

    assert found(table.results[1], strategy) == 21
    assert table.results[1].fidelity.kl < 1e-6
    assert float((got - expected).abs().max()) < 1e-4


@EXACT_ON_FAMILIES
def test_other_requests_in_between_change_nothing(session_of, words, family, strategy):
    session = session_of(family, strategy=strategy)
    expected = {
        seed: session.generate(words(20, seed=seed), strategy="full", max_new_tokens=8).token_ids for seed in range(3)
    }
    for seed in (0, 1, 0, 2, 1, 0):
        session.use("full" if seed == 2 else strategy)
        assert session.generate(words(20, seed=seed), max_new_tokens=8).token_ids == expected[seed]
        session.generate(words(20, seed=seed), max_new_tokens=8, temperature=1.0, seed=seed)


@EXACT_ON_FAMILIES
def test_sampling_with_the_same_seed(session_of, words, family, strategy):
    session = session_of(family, strategy=strategy)
    ask = {"max_new_tokens": 10, "temperature": 0.8, "seed": 4}
    expected = session.generate(words(30), **ask | {"strategy": "full"}).token_ids
    for _ in range(2):
        assert session.generate(words(30), **ask).token_ids == expected


@pytest.mark.parametrize("strategy", EXACT)
def test_half_precision(make_model, tokenizer, words, strategy):
    model = make_model("qwen3").to(torch.bfloat16)
    with nbkv.load(model, tokenizer=tokenizer, strategy=strategy) as session:
        assert session.verify().ok
        session.generate(words(30), max_new_tokens=4)
        table = session.compare(words(30) + words(9, seed=2), strategy, repeat=1, max_new_tokens=4)

    assert found(table.results[1], strategy) == 31
    assert table.results[1].fidelity.kl < 1e-2


@pytest.mark.parametrize("strategy", EXACT)
def test_a_store_too_small_for_the_prompt_is_no_error(session_of, words, strategy):
    session = session_of(strategy=strategy, store="memory?device=40KiB")
    for seed in (0, 1, 0, 1):
        result = session.generate(words(60, seed=seed), max_new_tokens=5)

        assert agrees(result, session.adapter.model)
        assert session.store.nbytes <= 40 * 1024
    if registry.get(strategy).family == "prefix":
        assert session.stats.evictions > 0


@pytest.mark.parametrize("strategy", EXACT)
def test_padding_free_left_context_of_one_token(session_of, family, strategy):
    session = session_of(family, strategy=strategy)
    for _ in range(2):
        result = session.generate(["w5"], max_new_tokens=3)
        assert agrees(result, session.adapter.model)
    assert result.tokens.fresh == 0
    assert result.tokens.recomputed == 1 or registry.get(strategy).family != "prefix"


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rope_kinds_that_depend_on_length(make_model, tokenizer, words, strategy, kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 40}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]}
        model = make_model("phi3", rope_parameters=rope, original_max_position_embeddings=40)
    else:
        model = make_model("llama", rope_parameters=rope | {"factor": 4.0}, max_position_embeddings=40)
        model.config.max_position_embeddings = 160
    with nbkv.load(model, tokenizer=tokenizer, strategy=strategy) as session:
        for n in (20, 20, 30, 36, 45, 45, 36, 39, 60, 30):
            result = session.generate(words(n), max_new_tokens=9 if kind == "longrope" else 3)

            # these turn every key anew as a prompt grows: only a decode of its own is the reference
            assert list(result.token_ids) == generated(model, list(result.prompt_ids), len(result.token_ids))
            assert result.tokens.reused == 0 or n < 40
    assert found(result, strategy) == 30 or registry.get(strategy).family != "prefix"


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_dynamic_ntk_is_served_in_full_beyond_the_trained_length(make_model, tokenizer, words, strategy, factor):
    """By the very angles of a first request: the model's own rotary module keeps those of the longest so far."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": factor}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=40)
    with nbkv.load(model, tokenizer=tokenizer, strategy=strategy) as session:
        context = session.adapter.capabilities.context
        for n in (36, 38, 39, 40, context - 4, 45, 45, 39, 30):
            result = session.generate(words(n), max_new_tokens=8)
            model(torch.tensor([[1]]))  # makes its angles those of the trained length again

            assert list(result.token_ids) == generated(model, list(result.prompt_ids), len(result.token_ids))
            assert result.tokens.reused == 0 or len(result.prompt_ids) < 40
            assert len(result.prompt_ids) + len(result.token_ids) <= context
        assert context == int(40 * factor)
        with pytest.raises(nbkv.BadPrompt, match=f"context is {context}"):
            session.generate(words(context))
