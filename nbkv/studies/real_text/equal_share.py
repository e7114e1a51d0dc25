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
    """Mean error over a rival's mean error, with the 95 % interval of the paired bootstrap over questions.

    ``wins`` is the share of questions on which the error is the smaller one (ties count half).
    """

    ratio: float
    low: float
    high: float
    wins: float


def ratio(mine: NDArray[np.float64], other: NDArray[np.float64]) -> Ratio:
    """Return how ``mine`` compares to ``other``: errors ``[n]`` of the same questions."""
    drawn = np.random.default_rng(0).integers(len(mine), size=(_DRAWS, len(mine)))
    least = np.finfo(np.float64).tiny
    ratios = mine[drawn].mean(axis=1) / np.maximum(other[drawn].mean(axis=1), least)
    low, high = np.quantile(ratios, (0.025, 0.975))
    wins = float((mine < other).mean() + (mine == other).mean() / 2)
    return Ratio(float(mine.mean() / max(other.mean(), least)), float(low), float(high), wins)
