"""How many of n prompts may break a bound before it cannot be believed: exact binomial tails."""

from __future__ import annotations

from itertools import count
from math import ceil, exp, lgamma, log, log1p

_HALVINGS = 60  # of the interval from 0 to 1: more than a float can tell


def at_most(above: int, n: int, share: float) -> float:
    """Return how probable ``above`` or fewer of ``n`` are where each is above with probability ``share``.

    For an unknown share this is the p-value, exact and one-sided, of the hypothesis that it is ``share`` or more.
    """
    if above >= n:
        return 1.0
    yes, no = log(share), log1p(-share)
    terms = (_log_ways(k, n) + k * yes + (n - k) * no for k in range(above + 1))
    return min(1.0, sum(map(exp, terms)))


def upper_bound(above: int, n: int, doubt: float) -> float:
    """Return the share that, with confidence 1 - ``doubt``, is not exceeded (Clopper and Pearson, 1934)."""
    if above >= n:
        return 1.0
    low, high = above / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 1 and at_most(above, n, middle) > doubt else (low, middle)
    return high


def most_above(n: int, share: float, doubt: float) -> int:
    """Return how many of ``n`` may be above for ``share`` still to be believed; -1 if none may, ``n`` being too few."""
    return next(above for above in count() if at_most(above, n, share) > doubt) - 1


def fewest(share: float, doubt: float) -> int:
    """Return the smallest n of which none above is enough to believe ``share``: (1 - share)^n <= doubt."""
    about = ceil(log(doubt) / log1p(-share))
    return next(n for n in count(max(1, about - 1)) if at_most(0, n, share) <= doubt)


def _log_ways(k: int, n: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
