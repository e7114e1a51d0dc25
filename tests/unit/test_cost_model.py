from __future__ import annotations

from dataclasses import replace

import pytest

from nbkv.context import Request
from nbkv.families.routing import cost_model, estimate
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.kl_history import KLHistory


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_costs_of_a_model_are_measured(session_of, family):
    session = session_of(family)
    found = cost_model.costs(session._open().for_request())

    assert found.overhead + found.row + found.pair > 0
    assert min(found.overhead, found.row, found.pair, found.move, found.copy) >= 0
    assert found.copy > 0
    assert cost_model.costs(session._open().for_request()) == found


def test_a_measurement_leaves_no_trace_in_the_store(session_of):
    session = session_of()
    cost_model.costs(session._open().for_request())
    assert session.store.tiers["tokens"].sum() == 0


def test_a_line_is_found_again():
    known = CostModel(overhead=2e-3, row=1e-4, pair=3e-7)
    shapes = [(16, 16), (200, 200), (400, 400), (16, 400)]
    found = cost_model._fit(shapes, [known.run(*shape) for shape in shapes])
    assert found == pytest.approx((2e-3, 1e-4, 3e-7))


def test_no_cost_is_negative():
    found = cost_model._fit([(16, 16), (100, 100), (200, 200), (16, 200)], [2.0, 1.0, 1.5, 1.9])
    assert min(found) >= 0
    assert max(found) > 0


def test_the_outlook_counts_what_the_store_has(session_of, words):
    session = session_of()
    one, two = session.chunk(words(20, seed=1), name="one"), session.chunk(words(10, seed=2), name="two")

    def look(parts):
        return estimate.estimate(Request(session._prompt(parts), 4), session._open().for_request())

    assert look(words(9)) == estimate.Estimate(10, 1, 0)  # the BOS of the chunks is known
    assert look([words(4), two, one, words(3)]) == estimate.Estimate(38, 1, 30)
    assert look([one, two, words(3)]) == estimate.Estimate(34, 21, 10)
    session.store.clear()
    assert look([words(4), one]) == estimate.Estimate(25, 0, 20, (21,))


def test_expectations_add_up():
    costs = CostModel(overhead=1.0, row=0.1, pair=0.0, move=0.01, copy=0.001)
    known = estimate.Estimate(length=100, prefix=10, placed=60)

    assert known.in_full(costs) == pytest.approx(11.0)
    assert known.by_prefix(costs) == pytest.approx(0.01 + 1.0 + 9.0)
    assert known.by_blend(costs, 0.5) == pytest.approx(0.01 + 0.6 + (1 + 3) + (1 + 3 + 3))


def test_the_newest_measurements_count_and_infinity_is_survived():
    seen = KLHistory().with_kl(1.0).with_kl(3.0)
    assert (seen.n, seen.mean, seen.largest) == (2, 2.0, 3.0)
    seen = seen.with_kl(float("inf"))
    assert seen.largest == 100.0
    for _ in range(400):
        seen = seen.with_kl(0.1)
    assert (seen.n, seen.largest) == (256, 0.1)
    assert seen.mean == pytest.approx(0.1)


def test_rows_among_cached_ones_cost_what_such_a_pass_costs():
    plain = CostModel(overhead=1.0, row=0.1, pair=0.0)
    costs = replace(plain, scattered=(2.0, 0.3, 0.001), watched=(3.0, 0.4, 0.002))
    assert costs.run_scattered(10, 100) == pytest.approx(2.0 + 3.0 + 1.0)
    assert costs.scaled(2.0).run_scattered(10, 100) == pytest.approx(12.0)
    assert costs.run_scattered(0, 100) == 0.0
    assert costs.scaled(3.0).run_watched(5, 10) == pytest.approx(3 * (3.0 + 2.0 + 0.1))
    assert plain.run_scattered(10, 100) == plain.run(10, 100)
    known = estimate.Estimate(length=100, prefix=10, placed=60)
    assert known.by_blend(costs, 0.5) - known.by_blend(plain, 0.5) == pytest.approx(
        costs.run_watched(30, 100) - plain.run(30, 100) + costs.run_scattered(60, 100) - plain.run(60, 100)
    )
    assert known.by_prefix(costs) == known.by_prefix(plain)


@pytest.mark.parametrize(("family", "apart"), [("llama", True), ("gpt2", False)])
def test_scattered_passes_are_timed_where_chunks_can_be_placed(session_of, family, apart):
    ctx = session_of(family)._open().for_request()
    known = cost_model.costs(ctx)
    assert (known.scattered is not None) == (known.watched is not None) == apart
    assert cost_model.costs(ctx) == cost_model.costs(ctx)
