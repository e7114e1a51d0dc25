"""The notebook on tree search, small: exact, each method within its width, every figure in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "52_search.ipynb"
SMALL = {"n": 1, "width": 4, "depth": 3, "max_new_tokens": 20, "chunks": 3, "lines": 4, "lambdas": [1.0, 4.0]}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("searches"))


def records(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_a_search_is_exact_and_holds_less(told):
    found = records(told)
    assert found["questions"] == 1
    assert found["exact"]
    assert found["error"] < 1e-4
    assert found["kv_times_less"] > 1.8
    assert found["ways"].keys() == {"once", "ets", "rebase", "beam", "dvts", "rebase, nothing shared"}
    alone, shared = (found["ways"][name] for name in ("rebase, nothing shared", "rebase"))
    assert (alone["reward"], alone["tokens"]) == (shared["reward"], shared["tokens"])
    assert alone["K/V on average, MiB"] > shared["K/V on average, MiB"]
    assert found["against_sharing"]["K/V on average: times less"] >= 1


def test_dearer_kv_is_not_held_more(told):
    cheap, dear = (records(told)["by_cost"][value]["K/V on average, MiB"] for value in ("1.0", "4.0"))
    assert dear <= cheap


def test_it_shows_its_figures_and_ends_with_a_sentence(told, shown_well):
    shown_well(told, 2)
    page = told.report.read_text(encoding="utf-8")
    assert "held at the end of each step" in page
    assert "ETS by the cost of K" in page  # plotly writes the slash otherwise
