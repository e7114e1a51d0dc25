"""Steps that mean the same: agglomerative clusters of their embeddings, as ETS makes them.

Average linkage over cosine distances, cut at a distance (arXiv 2502.13575, section 4.2; 0.05 in its authors' code, on
sentence embeddings). The default embedding of a search is the model's own mean hidden state of a step. Those of one
model all point in about one direction, so that no two would be far apart: their mean over the leaves is taken away
first (Ethayarajh 2019, arXiv 1909.00512, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SAME = 1e-5  # of the embeddings' length: steps no further apart than rounding are the same


def clusters(embeddings: Sequence[NDArray[np.float32]], distance: float) -> list[int]:
    """Return for each of the ``embeddings`` ``[d]`` its cluster, numbered from 0 on in the order they come.

    Leaves further apart than ``distance`` (cosine, after their mean is taken away) on average are not of one cluster.
    """
    if len(embeddings) == 1:
        return [0]
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415  (heavy, only for this method)

    points = np.stack(embeddings).astype(np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    points = points / np.maximum(lengths, np.finfo(np.float64).tiny)
    points -= points.mean(axis=0)
    away = np.linalg.norm(points, axis=1)
    if away.max() <= _SAME:
        return [0] * len(embeddings)
    # a step at the mean itself has no direction: it is given one of its own
    points = np.concatenate([points, np.where(away <= _SAME, 1.0, 0.0)[:, None]], axis=1)
    found = fcluster(linkage(points, method="average", metric="cosine"), distance, criterion="distance")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(each), len(numbers)) for each in found]
