"""A small slice of the big table, on the bundled reader: what it must show whatever the exact figures are."""

from __future__ import annotations

import numpy as np
import pytest

import nbkv
from nbkv.studies.chunks import OURS, measure, specs
from nbkv.studies.oracle import oracle
from nbkv.studies.statistics import interval, markdown, not_above, verdicts
from nbkv.tasks import ledger

AT = f"{OURS}"  # its default budget is 0.2


@pytest.fixture(scope="module")
def items():
    return ledger(seed=4, n=24, chunks=8, distance=1) + ledger(seed=5, n=24, chunks=8, distance=3)


@pytest.fixture(scope="module")
def rows(items):
    wanted = ["full", "cacheblend(budget=0.0)", "cacheblend", "epic(budget=0.1)", "prophet", AT, oracle("line")]
    with pytest.MonkeyPatch.context() as patch, nbkv.load("tiny") as session:
        patch.setattr("nbkv.studies.chunks._MEASURED", 4)  # of each kind: nothing here is about the distance to full
        return measure(session, items, wanted, sinks=("primer",))


def row(rows, name):
    return next(each for each in rows if each["strategy"] == name)


def test_the_task_measures_something(rows):
    assert row(rows, "full")["carried"] >= 0.95
    assert row(rows, "full")["carried"] - row(rows, "cacheblend(budget=0.0)")["carried"] >= 0.2
    assert row(rows, "oracle(line)")["carried"] >= 0.9


def test_ours_is_above_the_published_ones_at_a_small_share(rows, items):
    ours = row(rows, AT)

    assert ours["carried"] >= 0.98 * row(rows, "full")["carried"]
    assert ours["local"] >= 0.98 * row(rows, "full")["local"]
    assert ours["share"] <= 0.12
    for found in verdicts(rows, items, ("cacheblend", "epic", "prophet"), AT):
        assert found["p"] < 0.05
        assert found["gap"] >= 0.5


def test_the_page_has_every_row(rows, items):
    data = {"regime": "a slice", "at": AT, "measured": 32, "rows": rows}
    page = markdown(data | {"verdicts": verdicts(rows, items, ("epic",), AT)})

    assert all(f"| {each['strategy']} |" in page for each in rows)
    assert "| primer | 3 |" in page


def test_the_whole_table_has_all_methods():
    names = [str(each) if isinstance(each, str) else "oracle" for each in specs()]

    assert names[:2] == ["full", "cacheblend(budget=0.0)"]
    assert names.count("oracle") == 3
    assert {name.split("(")[0] for name in names} >= {"cacheblend", "epic", "prophet", OURS}
    assert {"cachecraft", "epic"} <= set(names)  # at the number of rows their papers choose


def test_intervals_and_paired_comparison():
    better, worse = np.array([1.0] * 60), np.array([1.0] * 30 + [0.0] * 30)

    assert interval(better) == (1.0, 1.0)
    low, high = interval(worse)
    assert low < 0.5 < high
    assert not_above(better, worse) == 0.0
    assert not_above(worse, better) == 1.0


def test_unknown_oracles_are_named():
    with pytest.raises(nbkv.UnknownName, match="known: line, chunk, giving"):
        oracle("all")
