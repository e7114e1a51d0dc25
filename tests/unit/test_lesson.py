"""Finished requests teach what passes take: which of them, with which rows, and nothing that was not one plain pass."""

from __future__ import annotations

import pytest

from nbkv.families.routing import cost_model
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.experience import noted, pace
from nbkv.inference import run as runs
from nbkv.strategy import parse

COSTS = CostModel(overhead=1e-3, row=1e-3, pair=0.0, move=1e-6, copy=1e-6)


def known(session):
    return [(rows, keys) for rows, keys, _ in noted(session._open().for_request())]


def test_full_and_prefix_teach_what_their_rows_took(session_of, words):
    session = session_of()
    first = session.generate(words(40), max_new_tokens=3)
    again = session.generate(words(40) + words(9, seed=1), max_new_tokens=3)
    session.generate(words(40), strategy="full", max_new_tokens=1)
    assert known(session) == [(41, 41), (9, 50), (41, 41)]
    for (*_, seconds), result in zip(noted(session._open().for_request()), (first, again), strict=False):
        assert seconds == result.timing.ttft_s - result.timing.load_s > 0


@pytest.mark.parametrize("strategy", ["blend", "epic", "snapkv", "auto"])
def test_what_is_no_plain_pass_teaches_none(session_of, words, strategy, monkeypatch):
    monkeypatch.setattr(cost_model, "measure", lambda adapter: COSTS)
    session = session_of()
    chunk = session.chunk(words(60, seed=1), name="a")
    before = known(session)
    result = session.generate([words(3), chunk, words(4, seed=2)], strategy=strategy, max_new_tokens=2)
    assert (len(known(session)) > len(before)) == (strategy == "auto" and result.lineage == "exact")


@pytest.mark.parametrize("slower", [0.5, 1.0, 2.0])
def test_a_blend_that_was_asked_for_teaches_its_pace(session_of, words, monkeypatch, slower):
    monkeypatch.setattr(cost_model, "measure", lambda adapter: COSTS)
    learn = runs.learn

    def took(ctx, served, prefilled, timing):
        from dataclasses import replace

        from nbkv.families.routing.estimate import Estimate

        if served.family == "blend":
            expected = Estimate(1 + 3 + 60 + 4, 1, 60).by_blend(COSTS, 0.15)
            timing = replace(timing, ttft_s=slower * expected)
        learn(ctx, served, prefilled, timing)

    monkeypatch.setattr(runs, "learn", took)
    session = session_of()
    chunk = session.chunk(words(60, seed=1), name="a")
    ask = lambda seed: session.generate([words(3, seed=seed), chunk, words(4, seed=seed)], strategy="blend")  # noqa: E731
    ask(1)
    ctx = session._open().for_request()
    assert pace(ctx, parse("blend"), 68) == 1.0, "its costs were not known"
    cost_model.costs(ctx)
    for seed in range(2, 8):  # now and then a word more of a prompt is known already
        ask(seed)
    assert pace(ctx, parse("blend"), 68) == pytest.approx(slower, rel=0.05)


def test_an_interrupted_request_teaches_nothing(session_of, words):
    session = session_of()
    session.events.add(lambda event: session.stop() if type(event).__name__ == "Token" else None)
    result = session.generate(words(30), max_new_tokens=9)
    assert result.finish_reason == "interrupted"
    assert known(session) == []
