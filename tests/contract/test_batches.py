"""Rows of a batch agree with single runs, whatever the strategy, by house rule 1."""

from __future__ import annotations

import pytest

from nbkv.registry import strategies as registry


@pytest.fixture
def prompts(words):
    """Ragged; some begin alike."""
    return [words(24) + words(n, seed=n) for n in (5, 1, 9)] + [words(7, seed=40)]


def family_of(strategy):
    return "sdar" if "blockwise" in registry.get(strategy).needs else "llama"


@pytest.mark.parametrize("strategy", registry.names())
def test_rows_of_a_batch_are_single_runs(session_of, prompts, strategy):
    alone, together = (session_of(family_of(strategy), strategy=strategy) for _ in range(2))
    expected = [alone.generate(prompt, max_new_tokens=6).token_ids for prompt in prompts]
    results = together.generate_batch(prompts, strategy=strategy, max_new_tokens=6, progress=False)
    assert [result.token_ids for result in results] == expected


@pytest.mark.parametrize("strategy", registry.names())
def test_sampled_rows_are_single_runs_with_their_own_seed(session_of, prompts, strategy):
    alone, together = (session_of(family_of(strategy), strategy=strategy) for _ in range(2))
    sampled = {"max_new_tokens": 5, "temperature": 0.9}
    expected = [alone.generate(prompt, seed=3 + at, **sampled).token_ids for at, prompt in enumerate(prompts)]
    results = together.generate_batch(prompts, strategy=strategy, seed=3, progress=False, **sampled)
    assert [result.token_ids for result in results] == expected


@pytest.mark.parametrize("strategy", registry.names())
def test_afterwards_exact_strategies_equal_a_fresh_session(session_of, prompts, words, strategy):
    session, fresh = session_of(family_of(strategy)), session_of(family_of(strategy))
    session.generate_batch(prompts, strategy=strategy, max_new_tokens=5, progress=False)
    asked = prompts[0] + words(3, seed=50)
    expected = fresh.generate(asked, strategy="full", max_new_tokens=5).token_ids
    for name in ("full", "prefix"):
        assert session.generate(asked, strategy=name, max_new_tokens=5).token_ids == expected
