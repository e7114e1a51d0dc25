"""Where the KV of each prompt token came from, and arrays of that as runs."""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Provenance(IntEnum):
    """Where the KV of a prompt token finally came from."""

    FRESH = 0
    PREFIX = 1
    CHUNK = 2
    CORRECTED = 3
    RECOMPUTED = 4


def runs(values: NDArray[Any]) -> list[tuple[Any, int, int]]:
    """Return ``(value, start, stop)`` for each run of equal neighbours."""
    if not len(values):
        return []
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [(values[start].item(), start, stop) for start, stop in pairwise(edges)]
