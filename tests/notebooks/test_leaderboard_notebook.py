"""The leaderboard, small: who takes part, what is exact, rivals in the table, kept tables beside fresh rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "90_leaderboard.ipynb"
SMALL = {"tasks": ["distance 1"], "strategies": ["epic", "passage", "h2o"], "budgets": [0.3, 1.0], "seeds": [0, 1]}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def found(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_what_is_exact_and_what_computes_all_again_is_full(found):
    for name in (
        "full",
        "prefix",
        "epic(budget=1.0)",
        "passage(budget=1.0)",
        "random(budget=1.0)",
        "lexical(budget=1.0)",
    ):
        assert found["kl"][name] < 1e-6
        assert found["right"][name] == found["right"]["full"]
    assert found["share"]["full"] == 1
    assert found["kl"]["cacheblend(budget=0)"] > 1e-3


def test_the_dumbest_rivals_stand_beside_the_methods(found):
    assert found["questions"] == 2
    rivals = {"cacheblend(budget=0)", "random(budget=0.3)", "lexical(budget=0.3)"}
    assert rivals | {"epic(budget=0.3)", "passage(budget=0.3)"} <= found["kl"].keys()
    assert found["share"]["cacheblend(budget=0)"] == min(found["share"].values())
    assert {"cacheblend(budget=0)"} <= {*found["front"]}
    assert found["drawn"] != []
    assert not {"naive", "random", "full", "prefix"} & {*found["drawn"]}


def test_who_does_not_take_part_is_told_why(found):
    assert found["refused"].keys() == {"h2o"}
    assert "reuses no chunks" in found["refused"]["h2o"]


def test_kept_tables_stand_beside_what_was_measured(found):
    kept = {path.stem.rpartition("-")[0] for path in (ROOT / "docs" / "tables" / "real").glob("*.json")}
    assert kept
    assert {*found["models"]} == kept | {"tiny"}
    assert found["nearest"].keys() == kept | {"tiny"}


def test_it_is_shown_well(sweep, found, shown_well):
    assert found
    shown_well(sweep, 2)
