"""What requests took corrects what was measured: by medians of a size, whatever one busy moment did to either."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nbkv.context import Context
from nbkv.families.routing import experience
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.experience import Corrections, learn_pace, note_pass, noted, pace
from nbkv.models.identity.verdicts import Verdicts
from nbkv.strategy import parse

TRUE = CostModel(overhead=2e-3, row=1e-4, pair=1e-8, move=1e-5, copy=1e-6, scattered=(3e-3, 1e-4, 1e-8))
MISS, HIT = (664, 664), (24, 664)
SPOILED = {
    "overhead": replace(TRUE, overhead=20e-3),
    "rows": replace(TRUE, row=3e-4),
    "all": TRUE.scaled(2.5),
    "none": TRUE,
}


@pytest.fixture
def ctx():
    return Context(None, None, None, None, None, "s", model="m", verdicts=Verdicts())


def requests(n, noise=0.0, outlier=None, seed=1):
    """Return the times of ``n`` requests that missed and ``n`` that hit; number ``outlier`` of either took 20 x."""
    draw, times = random.Random(seed), []
    for number in range(n):
        slow = 20.0 if number == outlier else 1.0
        times += [(*size, TRUE.run(*size) * slow * draw.uniform(1, 1 + noise)) for size in (MISS, HIT)]
    return times


def saved(costs):
    return costs.run(*MISS) - costs.run(*HIT)


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("outlier", [None, 0, 1, 2, 3, 4])
def test_a_measurement_that_was_spoiled_is_mended_by_requests(spoiled, outlier):
    costs = SPOILED[spoiled].corrected(requests(5, 0.05, outlier))
    assert saved(costs) == pytest.approx(saved(TRUE), rel=0.08)
    assert costs.run(25, 700) == pytest.approx(TRUE.run(25, 700), rel=0.3), "a similar size"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_requests_correct_nothing(n):
    assert TRUE.corrected(requests(n, outlier=0)).run(*MISS) == TRUE.run(*MISS)


def test_one_slow_request_of_three_corrects_nothing():
    for outlier in range(3):
        assert saved(TRUE.corrected(requests(3, outlier=outlier))) == pytest.approx(saved(TRUE))


def test_what_changed_for_good_is_learnt_and_the_past_forgotten():
    slower = [(*MISS, 2 * TRUE.run(*MISS))] * 4
    assert TRUE.corrected(requests(9) + slower).run(*MISS) == pytest.approx(2 * TRUE.run(*MISS))
    assert TRUE.corrected(requests(9) + slower[:3]).run(*MISS) == pytest.approx(TRUE.run(*MISS))


@pytest.mark.parametrize(("factor", "others"), [(1.2, 1.0), (0.85, 1.0), (2.0, 2.0), (0.5, 0.5), (9.0, 3.0)])
def test_other_sizes_are_corrected_only_where_all_is_off(factor, others):
    times = [(rows, keys, seconds * factor) for rows, keys, seconds in requests(3)]
    costs = TRUE.corrected(times)
    assert costs.run(*MISS) == pytest.approx(factor * TRUE.run(*MISS))
    for rows, keys in ((5000, 5000), (3, 90)):
        assert costs.run(rows, keys) == pytest.approx(others * TRUE.run(rows, keys))
    assert costs.blend_pace == pytest.approx(others)
    assert costs.run_scattered(200, 1304) == TRUE.run_scattered(200, 1304), "blends have a pace of their own"


def test_blends_are_expected_to_be_as_slow_as_all_else_until_some_were_timed(ctx):
    blend = parse("blend")
    assert pace(ctx, blend, 100, unknown=2.0) == 2.0
    assert pace(ctx, parse("prefix"), 100, unknown=2.0) == 1.0
    for _ in range(3):
        learn_pace(ctx, blend, 100, 0.1, 0.11)
    assert pace(ctx, blend, 100, unknown=2.0) == pytest.approx(1.1)


def test_a_pass_of_no_rows_costs_nothing_whatever_was_learnt():
    assert TRUE.corrected(requests(3)).run(0, 10) == 0.0
    assert Corrections.by([(0, 0, 1.0)] * 3, lambda *_: 0.0) == Corrections()


def test_only_the_newest_passes_are_remembered(ctx):
    for number in range(300):
        note_pass(ctx, 10 + number, 1000, 0.5)
    note_pass(ctx, 0, 10, 1.0)
    note_pass(ctx, 5, 10, -1.0)
    assert [rows for rows, _, _ in noted(ctx)] == list(range(310 - experience._KEPT, 310))
    assert noted(replace(ctx, model="other")) == []


@pytest.mark.parametrize("outlier", range(6))
def test_the_pace_of_a_blend_is_a_median_and_begins_as_expected(ctx, outlier):
    blend, seen = parse("blend"), []
    for number in range(6):
        learn_pace(ctx, blend, 100, 0.1, 2.0 if number == outlier else 0.13)
        seen.append(pace(ctx, blend, 100))
    assert seen[0] == 1.0, "one request alone is not believed"
    assert seen[-1] == pytest.approx(1.3)
    assert max(seen) <= 1.3 + 1e-9 or outlier <= 2
    assert pace(ctx, parse("blend(budget=0.5)"), 100) == 1.0


def test_nothing_is_learnt_where_nothing_was_expected(ctx):
    for _ in range(5):
        learn_pace(ctx, parse("blend"), 100, 0.0, 1.0)
    assert pace(ctx, parse("blend"), 100) == 1.0


def test_the_pace_of_requests_is_of_their_length_once_a_few_are_known(ctx):
    blend = parse("blend")
    for _ in range(7):
        learn_pace(ctx, blend, 2000, 0.1, 0.2)
    assert pace(ctx, blend, 60) == pytest.approx(2.0), "of that length nothing is known yet"
    for number in range(3):
        learn_pace(ctx, blend, 60 + number, 0.01, 0.009)
    assert pace(ctx, blend, 60) == pytest.approx(0.9)
    assert pace(ctx, blend, 2100) == pytest.approx(2.0)
