"""The study of chains of agents: same chains for all, what counts, and a broken strategy that it has to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nbkv
from nbkv.strategies.relay import Relay
from nbkv.studies.agents import chains
from nbkv.studies.agents.chains import ChainSet, UnguidedRelay, difference, measured, page

SIZES = {"agents": 3, "first": 2, "lines": 1, "form": "notes", "seed": 7, "n": 4}


class Forgetful(Relay):
    """Relay that hands on keys without what they stand for."""

    spec = "forgetful"

    def supply(self, request, ctx):
        request, found = super().supply(request, ctx)
        for one in found.values():
            for side in one.kv.values:
                side.zero_()
        return request, found


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


@pytest.fixture(scope="module")
def table(session):
    strategies = ("full", "relay(budget=0)", UnguidedRelay(budget=0.2), "relay(budget=1)", Forgetful(budget=0.0))
    return measured(session, ChainSet("tiny", strategies, SIZES))


def row(table, strategy):
    return next(each for each in table["rows"] if each["strategy"] == strategy)


def test_the_reader_can_do_the_task_and_its_answers_are_reused(table):
    assert row(table, "full")["right"] == [1.0] * 4
    assert row(table, "full")["reused"] == 0
    assert row(table, "relay(budget=0)")["last_reused"] > 0.5
    assert row(table, "relay(budget=1)")["right"] == row(table, "full")["right"]


def test_random_rows_are_run(table):
    assert row(table, "relay(budget=0)")["last_reused"] > row(table, "relay, random rows")["last_reused"] > 0


def test_a_strategy_that_hands_on_something_else_is_seen(table):
    mean, low, high = difference(row(table, "forgetful"), row(table, "full"))
    assert low <= mean <= high < 0
    assert sum(row(table, "forgetful")["told"]) <= 1


def test_only_chains_behind_the_warm_ones_count_where_inputs_are_slots(session):
    table = measured(session, ChainSet("tiny", ("full", "kvcomm"), SIZES, slots=True))
    assert {len(each["right"]) for each in table["rows"]} == {2}
    assert "the last 2 chains count" in page({"tiny kvcomm": table})


def test_what_one_strategy_left_of_a_chain_helps_no_other():
    reuses, sizes = "kvcomm(gamma=1, max_kl=None, min_explained=None)", SIZES | {"n": 2}
    found = []
    for before in (("kvcomm",), ()):
        with nbkv.load("tiny", strategy="full") as fresh:
            found.append(measured(fresh, ChainSet("tiny", (*before, reuses), sizes, slots=True))["rows"][-1])
    assert found[0]["reused"] == found[1]["reused"] < 0.9
    assert found[0]["last_reused"] == found[1]["last_reused"]


def test_the_page_shows_each_strategy_with_its_difference(table):
    text = page({"tiny relay": table})
    for each in table["rows"]:
        assert f"| {each['strategy']} |" in text
    assert "(+0.0 to +0.0)" in text  # relay at its full budget


def test_sets_that_are_not_asked_for_stay_as_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SETS", (ChainSet("tiny", ("full",), SIZES), ChainSet("gone", ("full",), SIZES)))
    (tmp_path / "tables").mkdir()
    figures = {"right": [1.0], "told": [1.0], "reused": 0.0, "last_reused": 0.0, "share": 1.0}
    old = {"gone relay": {"model": "gone", "sizes": {}, "slots": False, "rows": [{"strategy": "full"} | figures]}}
    (tmp_path / "tables" / "agents.json").write_text(json.dumps(old))
    chains.main(["tiny relay", "-n", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "tables" / "agents.json").read_text())
    assert list(found) == ["gone relay", "tiny relay"]
    assert found["gone relay"] == old["gone relay"]
    assert found["tiny relay"]["sizes"]["n"] == 1
    assert "## gone" in (tmp_path / "agents-measured.md").read_text()


def test_the_page_is_made_from_the_table():
    docs = Path(__file__).parents[2] / "docs"
    tables = json.loads((docs / "tables" / "agents.json").read_text(encoding="utf-8"))
    assert (docs / "agents-measured.md").read_text(encoding="utf-8") == page(tables)
    assert set(tables) <= {each.name for each in chains.SETS}
