"""Methods held against each other at one share, on the same questions."""

from __future__ import annotations

import numpy as np
import pytest

from nbkv.studies.real_text.equal_share import Point, at_share, ratio


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
