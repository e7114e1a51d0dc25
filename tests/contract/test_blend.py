"""What every chunk strategy must survive besides: whatever stands where, on every family whose keys can move."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.families.blend.base import Blend
from nbkv.families.blend.harvest import Harvest
from nbkv.fidelity import kl
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.prompts.prompt import Prompt
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.strategy import parse

NAMES = [name for name in registry.names() if issubclass(registry.get(name), Blend)]
LEARNING = [name for name in NAMES if issubclass(registry.get(name), Harvest)]  # from the prompts they serve
BUDGETED = [name for name in NAMES if any(field.name == "budget" for field in dataclasses.fields(registry.get(name)))]
ANY = BUDGETED[0]  # where what is asked is the same for all
FAMILIES = "llama mistral qwen2 qwen3 gemma2 gemma3 phi3 gemma3n cohere2 gpt_neox mixtral".split()


def at(name, budget):
    return dataclasses.replace(parse(name), budget=budget)


def logits_of(session, prompt, strategy):
    """Return the strategy's and full's next-token logits on ``prompt``."""
    ctx, built = session._open().for_request(), session._prompt(prompt)
    wanted = nbkv.models.sampling.Sampling(max_new_tokens=1)
    mine = follow(RequestRun(ctx, parse(strategy), built, wanted), [0])[0]
    return mine, follow(RequestRun(ctx, parse("full"), built, wanted), [0])[0]


def error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def prompts(session, words):
    one, two = session.chunk(words(14, seed=1), name="one"), session.chunk(words(11, seed=2), name="two")
    tiny = session.chunk("w7", name="tiny")
    question = words(5, seed=9)
    return {
        "one behind text": [words(4, seed=5), one, question],
        "next to each other": [one, two, question],
        "a hole in the middle": [one, words(6, seed=6), two, question],
        "the same twice": [two, one, two, question],
        "one token": [words(2, seed=5), tiny, one, question],
        "behind the question": [question, one, two],
        "every part cached": [one, two],
        "only one": [two],
    }


CASES = [
    "one behind text",
    "next to each other",
    "a hole in the middle",
    "the same twice",
    "one token",
    "behind the question",
    "every part cached",
    "only one",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BUDGETED)
def test_the_full_budget_is_full_wherever_chunks_stand(session_of, words, name, case):
    session = session_of("llama")
    got, expected = logits_of(session, prompts(session, words)[case], at(name, 1.0))

    assert error(got, expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BUDGETED)
def test_the_full_budget_is_full_on_other_families(session_of, words, name, family):
    session = session_of(family)
    got, expected = logits_of(session, prompts(session, words)["a hole in the middle"], at(name, 1.0))

    assert error(got, expected) < 1e-4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_counts_and_provenance(session_of, words, name, case):
    session = session_of("llama", strategy=name)
    prompt = prompts(session, words)[case]
    result = session.generate(prompt, max_new_tokens=3)
    tokens = result.tokens

    assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt
    assert result.provenance[-1] in {Provenance.FRESH, Provenance.RECOMPUTED}
    in_chunks = sum(stop - start for _, start, stop in result.chunks)
    assert tokens.reused + tokens.recomputed <= in_chunks + 1  # BOS is a prefix that some chunk left
    assert tokens.reused >= 1
    assert result.compute.share >= tokens.fresh / tokens.prompt
    again = session.generate(prompt, max_new_tokens=3)
    if name not in LEARNING:  # from prompts
        assert again.token_ids == result.token_ids


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_before_the_first_chunk_is_exact_and_found_again(session_of, words, name, family):
    session = session_of(family)
    session.store.clear()
    head, one = words(12, seed=31), session.chunk(words(14, seed=32), name="behind")
    first = session.generate([head, one, words(5, seed=33)], strategy=name, max_new_tokens=2)
    start = first.chunks[0][1]
    assert (first.provenance[1:start] == Provenance.FRESH).all()
    again = session.generate([head, one, words(6, seed=34)], strategy=name, max_new_tokens=2)
    assert (again.provenance[:start] == Provenance.PREFIX).all()
    other = [head, words(7, seed=35)]
    assert session.generate(other, strategy="prefix", max_new_tokens=1, keep=False).tokens.reused >= start
    got, expected = logits_of(session, other, "prefix")
    assert error(got, expected) < 1e-4


def test_a_request_of_which_nothing_is_kept_leaves_no_beginning(session_of, words):
    session = session_of("llama")
    session.store.clear()
    prompt = [words(12, seed=31), session.chunk(words(14, seed=32), name="behind"), words(5, seed=33)]
    before = session.store.nbytes
    session.generate(prompt, strategy=ANY, max_new_tokens=2, keep=False)
    assert session.store.nbytes == before


@pytest.mark.parametrize("name", NAMES)
def test_a_beginning_without_room_in_the_store_is_told_and_computed_again(session_of, words, name):
    session = session_of("llama", store="memory?device=30kB")  # the chunk fits, the text in front of it does not
    one = session.chunk(words(8, seed=32), name="behind")
    for seed in (33, 34):
        result = session.generate([words(40, seed=31), one, words(5, seed=seed)], strategy=name, max_new_tokens=2)
        assert any(note.startswith("not kept: needs") for note in result.notes)
        assert (result.provenance[1 : result.chunks[0][1]] == Provenance.FRESH).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARNING])
def test_a_prompt_without_chunks_is_exact_and_continues_what_is_there(session_of, words, name):
    session = session_of("llama")
    session.store.clear()
    text = words(20, seed=41)
    session.generate(text, strategy=name, max_new_tokens=2)
    result = session.generate(text + words(4, seed=42), strategy=name, max_new_tokens=3)
    assert result.tokens.reused == len(result.prompt_ids) - 4
    assert "the prompt has no chunks: exact" in result.notes
    assert result.token_ids == session.generate(text + words(4, seed=42), strategy="full", max_new_tokens=3).token_ids


@pytest.mark.parametrize("name", BUDGETED)
def test_the_budget_is_kept(session_of, words, name):
    session = session_of("qwen3")
    chunks = [session.chunk(words(20, seed=i), name=str(i)) for i in range(4)]
    for budget in (0.0, 0.1, 0.35):
        if name in LEARNING:  # it reuses what an earlier prompt had of the chunks
            session._ctx.scratch.clear()
            session.generate([words(2), *chunks[::-1], words(4, seed=7)], strategy=name, max_new_tokens=1)
        # one token: what a strategy recomputes while it decodes has a measure of its own
        result = session.generate([words(2), *chunks, words(4, seed=8)], strategy=at(name, budget), max_new_tokens=1)

        assert result.tokens.recomputed <= -(-80 * budget // 1)
        if budget == 0:
            assert result.tokens.reused >= 80


@pytest.mark.parametrize("name", NAMES)
def test_rows_never_see_what_comes_later(session_of, words, name):
    session = session_of("llama")
    one = session.chunk(words(20, seed=1), name="one")
    others = [session.chunk(words(20, seed=seed), name=f"later{seed}") for seed in (2, 3)]
    strategy, caches, chosen = parse(name), [], []
    for other in others:
        ctx, built = session._open().for_request(), session._prompt([words(3, seed=4), one, other, words(4, seed=5)])
        prefilled = strategy.prefill(Request(built, 2, keep=False), ctx)
        caches.append(prefilled.cache.read(0, 24))
        chosen.append(prefilled.provenance[:24].tolist())
        strategy.commit(prefilled, built.ids, Request(built, 2, keep=False), ctx)
    alike = [row for row in range(24) if chosen[0][row] == chosen[1][row]]

    assert alike
    for first, second in zip(caches[0].values, caches[1].values, strict=True):
        assert torch.allclose(first[:, :4], second[:, :4], atol=1e-5)
    if chosen[0] == chosen[1]:
        for first, second in zip(caches[0].keys, caches[1].keys, strict=True):
            assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_that_left_the_store_changes_nothing_but_the_work(session_of, words, name):
    if name in LEARNING:
        pytest.skip("what it learned has left with it")
    session = session_of("llama", strategy=name)
    one, two = session.chunk(words(20, seed=1), name="one"), session.chunk(words(15, seed=2), name="two")
    prompt = [words(3, seed=4), one, two, words(4, seed=5)]
    before = session.generate(prompt, max_new_tokens=6)
    session.store.clear()
    after = session.generate(prompt, max_new_tokens=6)

    assert after.token_ids == before.token_ids
    assert any("encoded again" in note for note in after.notes)
    assert after.compute.rows > before.compute.rows
    assert after.tokens.reused < before.tokens.reused


@pytest.mark.parametrize("name", NAMES)
def test_a_store_too_small_for_anything(session_of, words, name):
    session = session_of("llama", strategy=name, store="memory?device=8KiB")
    one = session.chunk(words(30, seed=1), name="one")
    result = session.generate([words(3), one, words(4, seed=5)], max_new_tokens=3)

    assert result.tokens.prompt == result.tokens.fresh + result.tokens.reused + result.tokens.recomputed


@pytest.mark.parametrize("name", NAMES)
def test_tenants_share_nothing(model_of, tokenizer, words, name):
    from nbkv.stores.memory import MemoryStore

    store, text = MemoryStore(limit=2**30), words(30, seed=1)
    with (
        nbkv.load(model_of("llama"), tokenizer=tokenizer, store=store, tenant="a", strategy=name) as first,
        nbkv.load(model_of("llama"), tokenizer=tokenizer, store=store, tenant="b", strategy=name) as second,
    ):
        first.generate([words(3), first.chunk(text, name="c"), words(4, seed=2)], max_new_tokens=3)
        result = second.generate([words(3), text, words(4, seed=2)], max_new_tokens=3)

        assert result.tokens.reused == 0


@pytest.mark.parametrize("name", NAMES)
def test_exact_strategies_never_see_blended_kv(session_of, words, name):
    session, fresh = session_of("qwen3", strategy=name), session_of("qwen3")
    parts = [words(15, seed=1), words(12, seed=2), words(5, seed=3)]
    chunks = [session.chunk(part, name=str(at)) for at, part in enumerate(parts[:2])]
    session.generate([words(3), *chunks, parts[2]], max_new_tokens=8)
    for strategy in ("prefix", "full"):
        got = session.generate([words(3), *parts, words(3, seed=7)], strategy=strategy, max_new_tokens=8)
        assert got.token_ids == fresh.generate([words(3), *parts, words(3, seed=7)], max_new_tokens=8).token_ids


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_as_before_after_an_exception(session_of, words, name, monkeypatch):
    session = session_of("gemma2", strategy=name)
    model = session.adapter.model
    one = session.chunk(words(20, seed=1), name="one")
    before = (model.model.layers, model.config._attn_implementation)

    def boom(*_, **__):
        raise ZeroDivisionError

    prompt = [words(3), one, words(4, seed=2)]
    with monkeypatch.context() as patched:
        patched.setattr(model.model.layers[2], "forward", boom)
        with pytest.raises(ZeroDivisionError):
            session.generate(prompt, max_new_tokens=3)
    assert (model.model.layers, model.config._attn_implementation) == before
    assert session.generate(prompt, max_new_tokens=3).token_ids


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["gpt2", "bloom", "deepseek_v3"])
def test_models_whose_keys_cannot_move_are_refused_by_name(session_of, words, name, family):
    session = session_of(family)
    with pytest.raises(nbkv.UnsupportedModel, match="full and prefix work"):
        session.generate([words(3), session.chunk(words(9), name="c"), words(2)], strategy=name)
    assert session.generate(words(9), max_new_tokens=2).token_ids


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("budget", ["-0.1", "1.5", "True", "'much'"])
def test_budgets_that_are_no_share_are_refused(name, budget):
    with pytest.raises(nbkv.BadOption, match="budget="):
        parse(f"{name}(budget={budget})")


@pytest.mark.parametrize("name", BUDGETED)
def test_the_papers_word_for_the_budget_is_known(name):
    assert parse(f"{name}(recompute_ratio=0.3)") == at(name, 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(make_model, tokenizer, words, name):
    with nbkv.load(make_model("qwen3").to(torch.bfloat16), tokenizer=tokenizer, strategy=name) as session:
        one = session.chunk(words(20, seed=1), name="one")
        result = session.generate([words(3), one, words(4, seed=2)], max_new_tokens=4)

        assert result.tokens.reused
        full_budget = parse(name).at_full_budget()
        if full_budget is not None:
            got, expected = logits_of(session, [words(3), one, words(4, seed=2)], full_budget)
            assert kl(expected, got) < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_without_chunks_is_exact(session_of, words, name):
    session = session_of("llama")
    got, expected = logits_of(session, words(30), name)

    assert error(got, expected) < 1e-4


def test_an_answer_is_a_chunk_where_the_store_still_has_it(session_of, words):
    session = session_of("llama")
    answer = session.generate(words(20), max_new_tokens=9)
    result = session.generate([words(4, seed=3), answer, words(3, seed=4)], strategy=at(ANY, 0.0), max_new_tokens=2)

    assert result.tokens.reused >= 8
    assert isinstance(session._prompt([answer, "w1"]), Prompt)


@pytest.mark.parametrize("other", ["rope", "dtype", "weights"])
def test_a_chunk_of_another_model_is_refused(make_model, tokenizer, words, other):
    one = make_model("llama")
    if other == "rope":
        two = make_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    else:
        two = make_model("llama", seed=0 if other == "dtype" else 1)
        two = two.to(torch.bfloat16) if other == "dtype" else two
    with nbkv.load(one, tokenizer=tokenizer) as first, nbkv.load(two, tokenizer=tokenizer) as second:
        chunk = first.chunk(words(9), name="c")
        with pytest.raises(nbkv.BadPrompt, match="made by another model"):
            second.generate([words(3), chunk, words(2)], strategy=ANY)


def test_a_chunk_longer_than_the_context_is_refused(session_of, words):
    with pytest.raises(nbkv.BadPrompt, match="context is 512"):
        session_of("llama").chunk(words(600), name="long")


def test_beyond_the_trained_length_a_prompt_is_run_in_full_and_says_so(make_model, tokenizer, words):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 40}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=40)
    model.config.max_position_embeddings = 160
    with nbkv.load(model, tokenizer=tokenizer, strategy=ANY) as session:
        result = session.generate([words(3), session.chunk(words(20), name="c"), words(30)], max_new_tokens=2)

        assert result.tokens.fresh == result.tokens.prompt
        assert any("no chunk reuse" in note for note in result.notes)
        assert session.stats.fallbacks == 1
