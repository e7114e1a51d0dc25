"""Axes: round ticks that include the ends, whole numbers for whole numbers, 0 to 100 % for shares."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nbkv.show.axis import log_axis, number_axis, share_axis


@pytest.mark.parametrize("values", [(1, 2, 3), (1,), (0, 7), (3, 1200), (5, 5, 5)])
def test_whole_numbers_have_whole_ticks(values):
    axis = number_axis(values, zero=False)
    assert all(float(at).is_integer() for at in axis.at)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert len(set(axis.labels)) == len(axis.labels) <= 8


@pytest.mark.parametrize("values", [(0.013, 0.2), (-3.5, 8.25), (1e-9, 2e-9), (0.1, 1234.5), ()])
def test_ticks_are_even_and_hold_all_values(values):
    axis = number_axis(values)
    steps = [b - a for a, b in pairwise(axis.at)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert axis.low <= min([*values, 0]) <= max([*values, 0]) <= axis.high
    assert 0 in axis.at


@pytest.mark.parametrize(("values", "last"), [((0.2, 0.9), "100 %"), ((), "100 %"), ((0.5, 1.7), "200 %")])
def test_shares_go_from_nothing_to_all(values, last):
    axis = share_axis(values)
    assert (axis.labels[0], axis.labels[-1]) == ("0 %", last)
    assert axis.low == 0
    assert axis.high >= max([1.0, *values])


@pytest.mark.parametrize("values", [(0.5, 1e-9), (20.0, 3e-4), (1e-8,), ()])
def test_a_logarithmic_axis_says_what_lies_on_its_floor(values):
    axis = log_axis(values, 1e-4)
    assert axis.labels[0] == "≤ 0.0001"
    assert axis.place(1e-9) == 0 == axis.place(0.0)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert axis.high >= max(values, default=0)
    assert axis.place((axis.low * axis.high) ** 0.5) == pytest.approx(0.5)
