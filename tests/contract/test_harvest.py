"""What every strategy that keeps KV from prompts must survive: nobody else ever sees it, and full budget is full."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.families.blend.harvest import Harvest
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.registry import strategies as registry
from nbkv.strategy import parse

HARVESTING = [name for name in registry.names() if issubclass(registry.get(name), Harvest)]


@pytest.fixture(params=HARVESTING)
def strategy(request):
    return request.param


def kept(session):
    return [one for shelf in session._ctx.scratch.values() for one in shelf]


def leaves_exact_kv(results):
    """Whether one of ``results`` was computed exactly, so that ``prefix`` may find its KV as it does its own."""
    return any(result.lineage == "exact" for result in results)


def finds_no_more_than_a_head(got, expected):
    """Whether a result reused what another one did, or the tokens before the first chunk, which are exact."""
    head = got.chunks[0][1]
    return got.tokens == expected.tokens or expected.tokens.reused < got.tokens.reused <= expected.tokens.reused + head


def prompts(session, words):
    """The same words marked as chunks and not, so that either kind of reuse has something to find."""
    one, two = (session.chunk(words(24, seed=seed), name=f"c{seed}") for seed in (1, 2))
    rest = words(20, seed=3)
    return [
        [rest, one, words(4, seed=4), two, words(5, seed=5)],
        [words(7, seed=6), rest, two, one, words(5, seed=5)],
        [one, rest, words(3, seed=7), two, words(5, seed=8)],
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gemma3n", "qwen3"])
def test_full_budget_equals_full_with_whatever_was_kept(session_of, words, strategy, family):
    session = session_of(family)
    for prompt in prompts(session, words):
        session.generate(prompt, strategy=strategy, max_new_tokens=4)
    everything, ctx = parse(strategy).at_full_budget(), session._ctx
    for prompt in prompts(session, words):
        request = Request(session._prompt(prompt), 4, keep=False)
        got, expected = (one.prefill(request, ctx.for_request()).logits for one in (everything, parse("full")))
        assert (got - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def test_exact_strategies_afterwards_equal_a_fresh_session(session_of, words, strategy):
    session, fresh = session_of(), session_of()
    served = [session.generate(prompt, strategy=strategy, max_new_tokens=6) for prompt in prompts(session, words)]
    assert kept(session)
    for prompt, other in zip(prompts(session, words), prompts(fresh, words), strict=True):
        for name in ("prefix", "full"):
            got = session.generate(prompt, strategy=name, max_new_tokens=8)
            expected = fresh.generate(other, strategy=name, max_new_tokens=8)
            assert got.token_ids == expected.token_ids
            assert finds_no_more_than_a_head(got, expected) or leaves_exact_kv(served)


@pytest.mark.parametrize("tenant", ["default", "another"])
def test_another_session_on_the_same_store_finds_nothing(session_of, words, strategy, tenant):
    first = session_of(name="same")
    store = first.store
    second, alone = session_of(store=store, tenant=tenant, name="same"), session_of(tenant=tenant)
    served = [first.generate(prompt, strategy=strategy, max_new_tokens=4) for prompt in prompts(first, words)]
    assert kept(first)
    assert not kept(second)
    assert set(store.ls()["lineage"]) == {"exact"}
    shared, own = prompts(second, words)[0], prompts(alone, words)[0]
    got = second.generate(shared, strategy=strategy, max_new_tokens=4)
    expected = alone.generate(own, strategy=strategy, max_new_tokens=4)
    assert got.token_ids == expected.token_ids
    if tenant == "default":
        assert finds_no_more_than_a_head(got, expected) or leaves_exact_kv(served)
    else:
        assert got.tokens == expected.tokens


def test_nothing_is_kept_of_a_comparison(session_of, words, strategy):
    session = session_of()
    asked = prompts(session, words)
    session.generate(asked[0], strategy=strategy, max_new_tokens=4)
    before = [id(one) for one in kept(session)]
    session.compare(asked[1], ["full", strategy], repeat=1, max_new_tokens=2)
    assert [id(one) for one in kept(session)] == before


def test_it_is_never_more_than_its_share_of_the_store(session_of, words, strategy):
    session = session_of(store="memory?device=1MiB")
    most = 0
    for seed in range(6):
        asked = prompts(session, words)[0]
        session.generate([words(30, seed=10 + seed), *asked], strategy=strategy, max_new_tokens=4)
        most = max(most, sum(one.nbytes for one in kept(session)))
        assert most <= 0.25 * 2**20
    assert most > 0
    session.generate(words(40), strategy=f"{strategy}(store_share=0)", max_new_tokens=2)
    assert not kept(session)


def test_it_goes_with_the_store(session_of, words, strategy):
    session = session_of()
    for empty in (session.store.clear, lambda: session.use_store("memory")):
        session.generate(prompts(session, words)[0], strategy=strategy, max_new_tokens=2)
        assert kept(session)
        empty()
        assert not kept(session)
    session.generate(prompts(session, words)[0], strategy=strategy, max_new_tokens=2)
    shelf, memory = session._ctx.scratch, weakref.ref(kept(session)[0].kv.keys[0])
    session.close()
    gc.collect()
    assert not shelf
    assert memory() is None


def test_a_check_of_the_model_leaves_it_alone(session_of, words, strategy):
    session = session_of()
    session.generate(prompts(session, words)[0], strategy=strategy, max_new_tokens=2)
    before = [id(one) for one in kept(session)]
    assert session.verify(strategy).ok
    assert [id(one) for one in kept(session)] == before


def test_counts_add_up(session_of, words, strategy):
    session = session_of(strategy=strategy)
    for prompt in [*prompts(session, words), words(40), words(3, seed=9) + words(40)]:
        result = session.generate(prompt, max_new_tokens=4)
        tokens, compute = result.tokens, result.compute
        assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt == len(result.prompt_ids)
        assert compute.share == pytest.approx(compute.select + compute.rows)
        assert compute.rows > 0


def test_the_same_requests_give_the_same_answers(session_of, words, strategy):
    def answers():
        session = session_of(strategy=strategy)
        return [session.generate(prompt, max_new_tokens=6).token_ids for prompt in prompts(session, words) * 2]

    assert answers() == answers()


def test_a_model_that_was_changed_finds_nothing(make_model, tokenizer, words, strategy):
    with nbkv.load(make_model("llama"), tokenizer=tokenizer, strategy=strategy) as session:
        session.generate(words(40), max_new_tokens=2)
        with torch.no_grad():
            session.adapter.model.lm_head.weight.mul_(1.5)
        changed = session.generate(words(40), max_new_tokens=2)
        assert changed.tokens.reused <= 1


def test_an_answer_that_is_followed_is_stepped_as_it_is_decoded(session_of, words, strategy):
    session = session_of()
    asked = session._prompt(prompts(session, words)[0])
    cls, seen = registry.get(strategy), []

    class Counting(cls):
        name = ""

        def step(self, token, at, *rest):
            seen.append((token, at))
            return super().step(token, at, *rest)

    Counting.name = strategy
    from nbkv.models.sampling import Sampling

    run = RequestRun(session._ctx.for_request(), Counting(), asked, Sampling(max_new_tokens=4), keep=False)
    list(run.pieces())
    decoded, seen[:] = list(seen), []
    picked = follow(run, run.result.token_ids).argmax(dim=-1).tolist()

    assert decoded == seen
    assert [at for _, at in seen] == [len(asked.ids) + i for i in range(3)]
    assert tuple(picked) == run.result.token_ids
