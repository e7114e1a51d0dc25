"""A small slice of the instrument table, on the bundled reader: what it must show whatever the exact figures are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nbkv
from nbkv.studies import chunks
from nbkv.studies.chunks import METHODS, NAIVE, meter, page, questions, rows, summary, table
from nbkv.studies.oracle import ORACLES, oracle
from nbkv.studies.statistics import interval, not_above

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def frame():
    with pytest.MonkeyPatch.context() as patch, nbkv.load("tiny", strategy="full") as session:
        patch.setattr(chunks, "SEEDS", (4,))
        patch.setattr(chunks, "rows", slice_of)
        return table(session, ["distance 2", "two targets", "report"], n=6, sinks=("bos", "primer"))


def slice_of(task):
    budgets = (0.05, 0.15, 0.3)
    every = [f"{name}(budget={budget})" for name in ("cacheblend", "epic", "prophet", "passage") for budget in budgets]
    return [NAIVE, *every, "prophet(budget=1.0)", *([oracle("line")] if task.startswith("distance") else [])]


@pytest.fixture(scope="module")
def found(frame):
    return {(row["sink"], row["strategy"]): row for row in summary(frame)}


def test_the_tasks_measure_something(frame, found):
    assert (frame["full_truth"] == 1).mean() >= 0.95
    assert found["bos", NAIVE]["right"]["carried"] <= 0.8
    assert found["primer", "oracle(line)"]["right"]["carried"] >= 0.9


def test_the_whole_budget_is_full(frame, found):
    whole = frame[frame["strategy"] == "prophet(budget=1.0)"]
    assert (whole["kl"] < 1e-6).all()
    assert (whole["truth"] == whole["full_truth"]).all()
    assert found["bos", NAIVE]["kl"] > 1e-3


def test_the_meter_sees_wrong_answers(frame):
    assert meter(frame) >= 0.8


def test_a_blind_meter_is_seen(frame):
    drawn = np.random.default_rng(0).permutation(frame["kl"].to_numpy())
    assert meter(frame.assign(kl=drawn)) < 0.6


def test_the_page_has_every_row(frame, found):
    shown = page({"regime": "a slice", "full": {"report": 1.0}, "spearman": meter(frame), "rows": summary(frame)})
    assert all(f"| {strategy} | {sink} |" in shown for sink, strategy in found)


def test_the_committed_page_is_the_table_s():
    data = json.loads((DOCS / "tables" / "chunks.json").read_text("utf-8"))
    assert (DOCS / "chunks.md").read_text("utf-8") == page(data)
    assert data["spearman"] >= 0.8


def test_the_whole_table_has_all_methods():
    names = [str(row) for row in rows("distance 1") if not callable(row)]
    assert {name.partition("(")[0] for name in names} == {*METHODS, "random", "lexical"}
    assert len(rows("distance 1")) - len(rows("report")) == len(ORACLES)
    assert {len(item.answers) for item in questions("two targets", (1,), 2)} == {2}


def test_statistics():
    always, never = np.ones(50), np.zeros(50)
    assert interval(always) == (1.0, 1.0)
    assert not_above(always, never) == 0.0
    assert not_above(never, always) == 1.0
    assert 0.2 < not_above(np.tile([0.0, 1.0], 50), np.tile([1.0, 0.0], 50)) < 0.8
