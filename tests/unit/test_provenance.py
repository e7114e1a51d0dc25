from __future__ import annotations

import numpy as np
import pytest

from nbkv.result import Provenance, runs


def test_runs_join_back_to_the_array():
    values = np.array([1, 1, 0, 2, 2, 2, 1])

    assert (
        np.concatenate([np.full(stop - start, value) for value, start, stop in runs(values)]).tolist()
        == values.tolist()
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([Provenance.CHUNK], [(2, 0, 1)]),
        ([Provenance.FRESH] * 3, [(0, 0, 3)]),
        ([Provenance.PREFIX, Provenance.RECOMPUTED, Provenance.RECOMPUTED], [(1, 0, 1), (4, 1, 3)]),
    ],
)
def test_each_run_of_a_source_is_one(values, expected):
    assert runs(np.array(values, dtype=np.uint8)) == expected
