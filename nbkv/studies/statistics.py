"""Strategies on the same questions: intervals and paired comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRAWS = 2000


def interval(right: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``right``."""
    drawn = np.random.default_rng(0).choice(right, (_DRAWS, len(right))).mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def not_above(mine: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the paired bootstrap's p: how often a resample of the questions has ``mine`` no better than ``other``."""
    drawn = np.random.default_rng(0).choice(mine - other, (_DRAWS, len(mine))).mean(axis=1)
    return float((drawn <= 0).mean())
