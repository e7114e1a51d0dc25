"""Methods held against each other at one share, on the same questions."""

from __future__ import annotations

import numpy as np
import pytest

from nbkv.studies.real_text.equal_share import ENOUGH, Point, at_share, mean_ratio, ratio


def points(*pairs):
    return [Point(share, np.array(errors, dtype=np.float64)) for share, errors in pairs]


def test_between_two_rows_each_question_goes_its_own_way():
    curve = points((0.3, [1, 0]), (0.1, [3, 0.5]))
    np.testing.assert_allclose(at_share(curve, 0.2), [2, 0.25])
    np.testing.assert_allclose(at_share(curve, 0.1), [3, 0.5])


@pytest.mark.parametrize("share", [0.05, 0.35])
def test_nothing_is_continued_beyond_what_was_run(share):
    assert at_share(points((0.1, [1]), (0.3, [2])), share) is None
    assert at_share(points((0.1, [1])), 0.1) is None


def test_ratio_is_paired():
    rng = np.random.default_rng(3)
    other = rng.lognormal(sigma=2, size=60)
    half = ratio(other / 2, other)
    assert half.ratio == pytest.approx(0.5)
    assert half.low == pytest.approx(0.5)  # each question by the same factor: nothing is left to chance
    assert half.high == pytest.approx(0.5)
    assert half.wins == 1
    apart = ratio(rng.lognormal(sigma=2, size=60), other)
    assert apart.low < apart.ratio < apart.high
    assert ratio(other, other).wins == 0.5


def test_one_question_has_no_interval_and_few_decide_nothing():
    alone = ratio(np.array([1.0]), np.array([2.0]))
    assert (alone.ratio, alone.n) == (0.5, 1)
    assert np.isnan([alone.low, alone.high]).all()
    for n in (2, ENOUGH - 1, ENOUGH, 50):
        found = ratio(np.ones(n), np.full(n, 2.0))
        assert found.nearer == (n >= ENOUGH)
        assert ratio(np.full(n, 2.0), np.ones(n)).farther == (n >= ENOUGH)


def test_the_same_questions_at_several_shares_are_no_more_questions():
    rng = np.random.default_rng(1)
    pair = rng.lognormal(size=12), rng.lognormal(size=12)
    once, thrice = mean_ratio([[pair]]), mean_ratio([[pair] * 3])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.wins) == (12, pytest.approx(once.wins))


def test_tables_weigh_alike_whatever_their_size():
    few, many = (np.ones(2), np.full(2, 4.0)), (np.ones(50), np.ones(50))
    found = mean_ratio([[few], [many]])
    assert found.ratio == pytest.approx(0.5)
    assert found.n == 52
    assert found.wins == pytest.approx((2 + 25) / 52)
