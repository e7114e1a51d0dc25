"""What every strategy must survive, whoever wrote it."""

from __future__ import annotations

from functools import partial

import pytest

from nbkv.registry import strategies as registry
from nbkv.strategy import parse


@pytest.fixture(params=registry.names())
def strategy(request):
    exempt = registry.get(request.param).contract_exempt
    name = request.node.originalname
    if name in exempt:
        pytest.skip(exempt[name])
    return request.param


@pytest.fixture
def session_of(session_of, strategy):
    """Sessions on a model of the kind the strategy is for."""
    return partial(session_of, "sdar" if "blockwise" in registry.get(strategy).needs else "llama")


def test_it_says_what_it_is(strategy):
    cls = registry.get(strategy)

    assert cls.summary
    assert cls.family
    assert parse(strategy).spec == strategy


def test_one_first_chunk_behind_bos_equals_prefix(session_of, words, strategy):
    session = session_of(strategy=strategy)
    chunk = session.chunk(words(30), name="c", sink="bos")
    got = session.generate([chunk, words(5, seed=1)], max_new_tokens=6)

    assert got.token_ids == session.generate([chunk, words(5, seed=1)], max_new_tokens=6, strategy="prefix").token_ids


def test_counts_add_up(session_of, words, strategy):
    session = session_of(strategy=strategy)
    chunk = session.chunk(words(12), name="c")
    tiny = session.chunk("w9", name="one")
    for prompt in (
        [chunk, words(4, seed=1)],
        [words(3, seed=2), chunk, words(3, seed=3), chunk, words(2, seed=4)],
        [chunk, chunk],
        [tiny, "w3"],
        words(20),
        words(20),
    ):
        result = session.generate(prompt, max_new_tokens=3)
        tokens = result.tokens

        assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt == len(result.prompt_ids)
        assert len(result.provenance) == tokens.prompt


def test_full_budget_equals_full(session_of, words, strategy):
    full_budget = parse(strategy).at_full_budget()
    if full_budget is None:
        pytest.skip("its paper has no full budget")
    session = session_of()
    chunk = session.chunk(words(20), name="c")
    prompt = [words(4, seed=1), chunk, words(6, seed=2)]
    expected = session.generate(prompt, strategy="full", max_new_tokens=10).token_ids
    for _ in range(2):
        assert session.generate(prompt, strategy=full_budget, max_new_tokens=10).token_ids == expected


def test_the_model_is_as_before(session_of, words, strategy):
    session = session_of(strategy=strategy)
    model = session.adapter.model
    layers, implementation = model.model.layers, model.config._attn_implementation

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    session.generate(words(20), max_new_tokens=3)

    def boom(ids, scores, **_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.generate(words(20), max_new_tokens=3, stopping_criteria=[boom])
    assert (model.model.layers, model.config._attn_implementation, hooks()) == (layers, implementation, before)
    assert session.generate(words(20), max_new_tokens=3).token_ids


def test_same_seed_same_output(session_of, words, strategy):
    def answers():
        session = session_of(strategy=strategy)
        return [session.generate(words(20), max_new_tokens=6, temperature=1.0, seed=3).token_ids for _ in range(2)]

    assert answers() == answers()


def test_exact_strategies_afterwards_equal_a_fresh_session(session_of, words, strategy):
    session, fresh = session_of(), session_of()
    prompt = words(30)
    session.generate(prompt, strategy=strategy, max_new_tokens=8)
    expected = fresh.generate(prompt + words(4, seed=1), max_new_tokens=8).token_ids
    for name in ("full", "prefix"):
        assert session.generate(prompt + words(4, seed=1), strategy=name, max_new_tokens=8).token_ids == expected


def test_no_network(session_of, words, strategy, monkeypatch):
    import socket

    def refuse(*_, **__):
        message = "a strategy opened a connection"
        raise AssertionError(message)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert session_of(strategy=strategy).generate(words(10), max_new_tokens=2).text
