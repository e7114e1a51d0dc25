from math import comb

import pytest

from nbkv.families.routing import binomial


@pytest.mark.parametrize(("above", "n", "share"), [(0, 1, 0.5), (3, 20, 0.05), (7, 60, 0.2), (59, 60, 0.9)])
def test_the_tail_is_the_sum_of_its_terms(above, n, share):
    terms = [comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(above + 1)]

    assert binomial.at_most(above, n, share) == pytest.approx(sum(terms), rel=1e-9)


def test_the_ends_of_the_tail():
    assert binomial.at_most(-1, 10, 0.3) == 0
    assert binomial.at_most(10, 10, 0.3) == 1
    assert binomial.at_most(0, 0, 0.3) == 1
    assert 0 < binomial.at_most(400, 5000, 0.1) < 1e-5  # no overflow where the number of ways has no float


def test_the_bound_is_the_share_at_which_the_tail_is_the_doubt():
    bound = binomial.upper_bound(3, 50, 0.1)

    assert binomial.at_most(3, 50, bound) == pytest.approx(0.1, rel=1e-6)
    assert binomial.upper_bound(0, 30, 0.05) == pytest.approx(1 - 0.05 ** (1 / 30))
    assert binomial.upper_bound(9, 9, 0.05) == 1


@pytest.mark.parametrize(("share", "doubt", "n"), [(0.05, 0.05, 59), (0.05, 0.1, 45), (0.1, 0.05, 29), (0.5, 0.5, 1)])
def test_the_fewest_are_the_first_that_are_enough(share, doubt, n):
    assert binomial.fewest(share, doubt) == n
    assert binomial.most_above(n, share, doubt) == 0
    assert binomial.most_above(n - 1, share, doubt) == -1


def test_one_more_than_allowed_is_too_many():
    allowed = binomial.most_above(300, 0.05, 0.1)

    assert binomial.at_most(allowed, 300, 0.05) <= 0.1 < binomial.at_most(allowed + 1, 300, 0.05)
