"""ETS's integer program: which leaves are kept, so that what is kept shares its K/V and still says different things.

Over sets S of leaves (arXiv 2502.13575, section 4, eq 4): maximise the REBASE counts of S over those of all leaves,
less ``lambda_b`` times the K/V of S and its ancestors over that of all, plus ``lambda_d`` times the clusters that S
covers over all clusters. Solved by HiGHS, through ``scipy.optimize.milp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from nbkv.families.search.tree import SearchNode


@dataclass(frozen=True)
class Weights:
    """How much the program minds K/V (``lambda_b``) and values different meanings (``lambda_d``)."""

    lambda_b: float
    lambda_d: float


def kept(
    leaves: Sequence[SearchNode], gains: Sequence[float], costs: dict[int, float], clusters: Sequence[int], how: Weights
) -> list[bool]:
    """Return for each leaf whether it is kept, at least one.

    ``gains`` are the leaves' REBASE counts, ``costs`` the K/V of each node by its number, ``clusters`` the leaves'
    cluster, from 0 on.
    """
    from scipy.optimize import LinearConstraint, milp  # noqa: PLC0415  (heavy, only for this method)
    from scipy.sparse import coo_array  # noqa: PLC0415  (as above)

    paths = [[node.number for node in leaf.path()[:-1]] for leaf in leaves]
    inner = {number: len(leaves) + at for at, number in enumerate(dict.fromkeys(chain(*paths)))}
    n, n_clusters = len(leaves) + len(inner), max(clusters) + 1
    total = sum(costs[leaf.number] for leaf in leaves) + sum(costs[number] for number in inner)
    value = np.zeros(n + n_clusters)  # leaves, nodes above them, clusters
    value[: len(leaves)] = np.asarray(gains) / max(1, sum(gains))
    for at, number in [*enumerate(leaf.number for leaf in leaves), *((at, number) for number, at in inner.items())]:
        value[at] -= how.lambda_b * costs[number] / max(total, 1e-300)
    value[n:] = how.lambda_d / n_clusters
    rows: list[tuple[int, int, float]] = []  # all of them >= their bound
    bounds: list[float] = []
    for at, path in enumerate(paths):
        for number in path:  # a leaf needs the nodes above it
            rows += [(len(bounds), inner[number], 1.0), (len(bounds), at, -1.0)]
            bounds.append(0.0)
    for cluster in range(n_clusters):  # a cluster is covered by a leaf of its own
        rows += [(len(bounds), at, 1.0) for at, own in enumerate(clusters) if own == cluster]
        rows.append((len(bounds), n + cluster, -1.0))
        bounds.append(0.0)
    rows += [(len(bounds), at, 1.0) for at in range(len(leaves))]
    bounds.append(1.0)
    row, column, entry = zip(*rows, strict=True)
    matrix = coo_array((entry, (row, column)), shape=(len(bounds), n + n_clusters)).tocsr()
    found = milp(
        -value, integrality=np.ones(len(value)), bounds=(0, 1), constraints=LinearConstraint(matrix, lb=bounds)
    )
    if found.x is None:
        message = f"the integer program of the search was not solved: {found.message}"
        raise RuntimeError(message)
    return [bool(chosen > 0.5) for chosen in found.x[: len(leaves)]]  # noqa: PLR2004  (an integer, but for rounding)
