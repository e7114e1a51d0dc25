"""The notebook on batches, small: the same answers, fewer tokens, nobody waits forever, every figure in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "51_batch.ipynb"
SMALL = {"texts": 2, "questions": 3, "lines": 20, "widths": [1, 4], "asked": 4, "blends": ["epic"], "passages": 5}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("batches"))


def records(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_a_batch_says_what_full_says_for_less(told):
    found = records(told)
    assert found["prompts"] == 6
    assert found["exact"]
    assert found["groups"] == [3, 3]
    assert found["saved"] > 0.4
    assert found["kv_share"] < 0.8


def test_patience_bounds_how_long_the_first_request_waits(told):
    served = records(told)["cold_served"]
    assert served["as they come"] == 1
    assert served["hits(window=12, wave=2, patience=0)"] <= 2
    assert served["hits(window=12, wave=2, patience=2)"] <= 6
    assert served["hits(window=12, wave=2, patience=100)"] >= served["hits(window=12, wave=2, patience=2)"]


def test_free_order_is_exact_and_computes_less_than_given_order(told):
    found = records(told)
    ways, fresh = found["order"], found["fresh"]
    assert ways["prefix, order=reuse"]["KL"] < 1e-6
    assert (
        ways["prefix, order=reuse"]["computed"] <= ways["prefix, as given"]["computed"] <= ways["full"]["computed"] == 1
    )
    assert fresh["reuse"] <= fresh["as given"]


def test_the_report_shows_what_it_measured(told):
    page = told.report.read_text(encoding="utf-8")
    titles = ("A column of questions", "Throughput by the number of answers", "Right answers against what is computed")
    assert all(title in page for title in titles)
    assert page.count("<figure>") >= len(titles)
