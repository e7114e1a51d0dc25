"""Strategies held against each other at the same compute share, on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRAWS = 2000
ENOUGH = 6
"""Questions below which nothing is claimed: of five that all say the same, chance says so 1 time in 16."""

Pair = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
"""Errors ``[n]`` of two strategies on the same questions."""


@dataclass(frozen=True, eq=False)
class Point:
    """One row of a table: its mean compute share, and the error of each question, ``[n]`` in nats."""

    share: float
    errors: NDArray[np.float64]


def at_share(points: Sequence[Point], share: float) -> NDArray[np.float64] | None:
    """Return each question's error ``[n]`` at ``share``, linear between the two rows of one method around it.

    None where the method was not measured on both sides of it: nothing is continued beyond what was run.
    """
    ordered = sorted(points, key=lambda point: point.share)
    for low, high in pairwise(ordered):
        if low.share <= share <= high.share:
            way = (share - low.share) / max(high.share - low.share, 1e-12)
            return (1 - way) * low.errors + way * high.errors
    return None


@dataclass(frozen=True)
class Ratio:
    """Mean error over a rival's mean error on ``n`` questions, with the 95 % interval of the paired bootstrap.

    ``wins`` is the share of questions on which the error is the smaller one (ties count half). A single question has no
    interval: NaN.
    """

    ratio: float
    low: float
    high: float
    wins: float
    n: int

    @property
    def nearer(self) -> bool:
        """Return whether the error is smaller than the rival's, by more than chance and on enough questions."""
        return self.n >= ENOUGH and self.high < 1

    @property
    def farther(self) -> bool:
        """Return whether it is larger, by the same rule."""
        return self.n >= ENOUGH and self.low > 1


def ratio(mine: NDArray[np.float64], other: NDArray[np.float64]) -> Ratio:
    """Return how ``mine`` compares to ``other``: errors ``[n]`` of the same questions."""
    return mean_ratio([[(mine, other)]])


def mean_ratio(tables: Sequence[Sequence[Pair]]) -> Ratio:
    """Return the geometric mean over ``tables`` of their own, which is that of the ratios of several pairs of errors.

    The pairs of one table are of the same questions (at several shares, say): these are drawn again once for all of
    them. ``n`` is the sum of the questions of each table.
    """
    draw, least = np.random.default_rng(0), np.finfo(np.float64).tiny
    logs, found, wins, sizes = np.zeros(_DRAWS), 0.0, 0.0, [max(len(mine) for mine, _ in pairs) for pairs in tables]
    for pairs, size in zip(tables, sizes, strict=True):
        places = draw.random((_DRAWS, size))
        for mine, other in pairs:
            drawn = (places[:, : len(mine)] * len(mine)).astype(np.int64)
            parts = len(tables) * len(pairs)
            top, bottom = (np.maximum(side[drawn].mean(axis=1), least) for side in (mine, other))
            logs += np.log(top / bottom) / parts
            found += float(np.log(max(mine.mean(), least) / max(other.mean(), least))) / parts
            wins += float((mine < other).mean() + (mine == other).mean() / 2) * size / len(pairs)
    low, high = np.exp(np.quantile(logs, (0.025, 0.975))) if min(sizes) > 1 else (np.nan, np.nan)
    return Ratio(float(np.exp(found)), float(low), float(high), wins / sum(sizes), sum(sizes))
