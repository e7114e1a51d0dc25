"""How a budget is allotted over what is moved within a history: which rows come first, and never more than allowed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nbkv.context import Request
from nbkv.families.blend.allotment import Allotment, MovedRun
from nbkv.families.blend.base import Blend
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.strategy import parse

BUDGETED = [
    name
    for name in registry.names()
    if issubclass(registry.get(name), Blend) and "budget" in {f.name for f in dataclasses.fields(registry.get(name))}
]


def stripped(gone=40, runs=6, length=30, prefix=20, alone=0):
    """Return the allotment of ``runs`` in front of each of which ``gone`` tokens were left out."""
    found, here, there = [], prefix, prefix
    for _ in range(runs):
        there += gone
        found.append(MovedRun(here, here + length, there))
        here, there = here + length, there + length
    return Allotment(tuple(found), alone, prefix)


@pytest.mark.parametrize(
    ("runs", "seams"),
    [
        ([], []),
        ([MovedRun(20, 60, 25)], [(20, 5)]),  # five tokens went
        ([MovedRun(27, 60, 20)], [(27, 7)]),  # seven came
        ([MovedRun(24, 60, 24)], [(24, 8)]),  # four went and four came
        ([MovedRun(20, 60, 25), MovedRun(60, 90, 65)], [(20, 5)]),  # the second run goes on where the first one ended
        ([MovedRun(20, 60, 25), MovedRun(60, 90, 95)], [(20, 5), (60, 30)]),
        ([MovedRun(20, 60, 20)], []),
    ],
)
def test_a_seam_is_where_a_run_does_not_follow_as_it_did(runs, seams):
    assert Allotment(tuple(runs), 0, 20).seams == seams


@pytest.mark.parametrize("gone", [1, 12, 200])
def test_what_stands_near_behind_a_large_change_is_most_stale(gone):
    one = Allotment((MovedRun(20, 120, 20 + gone),), 0, 20).staleness
    more = Allotment((MovedRun(20, 120, 20 + 2 * gone),), 0, 20).staleness

    assert (np.diff(one) < 0).all()
    assert one[0] == pytest.approx(np.log1p(gone))
    assert (more > one).all()
    assert not Allotment((MovedRun(20, 120, 20),), 0, 20).staleness.any()


@pytest.mark.parametrize("budget", [0.05, 0.15, 0.6])
def test_the_part_of_a_budget_goes_with_what_has_changed_within_limits(budget):
    counts = [stripped(gone, alone=100).rows(budget) for gone in (0, 1, 4, 16, 1000)]

    assert counts == sorted(counts)
    assert counts[0] == -(-budget * (100 + 20) // 1)  # a ninth of 180 rows, and all of those alone
    assert counts[-1] == -(-budget * (100 + 60) // 1)  # a third
    assert Allotment((), 100, 0).rows(budget) == -(-budget * 100 // 1)


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.8])
def test_half_is_behind_changes_and_a_quarter_is_the_newest(budget):
    of = stripped(length=50)
    room, ahead = of.rows(budget), of.ahead(budget)
    newest = int(room / 4)
    others = sorted(set(ahead) - set(range(320 - newest, 320)))

    assert ahead == sorted(set(ahead))
    assert set(range(320 - newest, 320)) <= set(ahead)
    assert len(others) == int(room / 2)
    assert len({(row - 20) // 50 for row in others}) > 3  # behind most of the six changes
    assert max((row - 20) % 50 for row in others) < 25


@pytest.mark.parametrize("alone", [0, 50, 400])
def test_what_was_encoded_alone_keeps_its_share(alone):
    of = stripped(alone=alone)
    assert len(of.ahead(0.3)) == len(stripped().ahead(0.3))
    assert of.rows(0.3) - len(of.ahead(0.3)) >= 0.3 * alone
    assert Allotment((), alone, 0).ahead(0.3) == []


def edited(session, words, spec, *, strategy=None):
    """Return what ``spec`` prefills where 9 tokens were left out, and the same prompt under full."""
    head, odd, rest = words(20, seed=1), words(9, seed=2), words(80, seed=3)
    session.generate(head + odd + rest + words(3, seed=4), max_new_tokens=1, strategy=spec)
    ctx = session._ctx.for_request()
    prompt = session._prompt(head + rest + words(6, seed=6), "earlier")
    chosen = strategy or parse(spec)
    made = chosen.prefill(Request(prompt, 4, keep=False), ctx)
    return made, parse("full").prefill(Request(prompt, 4, keep=False), ctx)


@pytest.mark.parametrize("name", BUDGETED)
def test_under_every_strategy_what_comes_first_is_computed_again_and_no_more_than_allowed(session_of, words, name):
    session = session_of("llama")
    strategy = dataclasses.replace(parse(name), budget=0.4)
    made, _ = edited(session, words, name, strategy=strategy)
    again = np.flatnonzero(made.provenance == Provenance.RECOMPUTED)
    if made.own is None or not made.own.bases:
        assert not len(again) or made.own is None  # it places what it finds by itself
        return
    allotment = made.own.allotment

    assert set(allotment.ahead(0.4)) <= set(again.tolist())
    assert f"; {len(allotment.ahead(0.4))} of these ran again" in made.notes[-1]
    assert len(allotment.ahead(0.4)) >= 3
    assert len(again) <= allotment.rows(0.4)


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_nothing_comes_first_where_nothing_or_all_is_recomputed(session_of, words, name, budget):
    session = session_of("llama")
    made, full = edited(session, words, name, strategy=dataclasses.replace(parse(name), budget=budget))

    if made.own is not None:
        assert not len(made.own.ahead)
    if budget == 1:
        assert torch.allclose(made.logits, full.logits, atol=1e-4)
