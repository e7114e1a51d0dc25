"""The notebook on agents, small: facts arrive, a full budget is full, reuse is told by edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "50_agents.ipynb"
SMALL = {"chains": 2, "agents": 3, "first": 4, "lines": 4, "strategies": ["relay(budget=1)", "relay(budget=0)"]}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("agents"))


def test_facts_arrive_and_a_full_budget_is_full(told):
    assert not told.failed, told.failed[0].error
    found = told.runs[0].records
    assert found["correct"]["full"] == found["correct"]["relay(budget=1)"] == 1
    assert found["kl"]["relay(budget=1)"] < 1e-6 < found["kl"]["relay(budget=0)"]
    assert found["reused"]["full"] == 0
    assert found["reused"]["relay(budget=1)"] < 0.05  # what stands in front of all answers
    assert found["reused"]["relay(budget=0)"] > 0.7
    assert found["computed"]["relay(budget=0)"] < 0.7 * found["computed"]["full"]
    assert found["edges"] == 1 + 2
    assert found["least_share"] > 0.8


def test_every_figure_is_there(told, shown_well):
    shown_well(told, figures=1)
