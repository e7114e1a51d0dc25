"""The study of answers handed on once: what runs again, what is nearer, and a section that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nbkv
from nbkv.show.marked import marked
from nbkv.strategies.relay import Relay
from nbkv.studies.agents import handover

PROBLEMS = ["who bought milk ? ", "how much was the lamp ? "]


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


def measured(session):
    return handover.measure(session, PROBLEMS, tokens=6)


def naive(rows):
    return next(row["kls"] for row in rows if row["rows"] == "none")


def test_every_way_is_measured_at_every_budget_on_every_problem(session):
    rows = measured(session)
    assert [(row["rows"], row["budget"]) for row in rows][:4] == [
        ("none", 0),
        (handover.DRAWN, 0.1),
        (handover.DRAWN, 0.15),
        (handover.DRAWN, 0.35),
    ]
    assert all(len(row["kls"]) == len(PROBLEMS) for row in rows)
    assert min(naive(rows)) > 1e-3  # answers stand behind other words than those they were decoded behind
    assert min(row["kls"][0] for row in rows if row["rows"].startswith("most")) < naive(rows)[0]


def test_both_answers_are_chunks_of_the_third_prompt_and_reused(session):
    asked = handover.prompt(session, PROBLEMS[0])
    assert [part.name for part in asked if not isinstance(part, str)] == ["plan", "sums"]
    assert session.generate(asked, strategy="relay(budget=0)", max_new_tokens=1).tokens.reused > 10


def test_values_that_are_lost_are_further_from_full(session, monkeypatch):
    before, supply = naive(measured(session)), Relay.supply

    def without(self, request, ctx):
        request, found = supply(self, request, ctx)
        for one in found.values():
            for side in one.kv.values:
                side.zero_()
        return request, found

    monkeypatch.setattr(Relay, "supply", without)
    after = naive(measured(session))
    assert all(abs(one - other) > 1e-3 for one, other in zip(before, after, strict=True))


def test_the_first_rows_are_as_many_as_its_own(monkeypatch):
    class Partial:
        reused = torch.arange(5, 25)

    monkeypatch.setattr(Relay, "select", lambda _, partial: partial.reused[-7:])
    assert handover.FirstRows(budget=0.5).select(Partial()).tolist() == list(range(5, 12))


def row(name, budget, kls):
    return {"rows": name, "budget": budget, "kls": kls}


def test_the_table_counts_where_random_rows_are_further_from_full():
    rows = [
        row("none", 0, [0.3, 0.3]),
        row(handover.DRAWN, 0.1, [0.2, 0.1]),
        row("mine", 0.1, [0.1, 0.15]),
        row("the paper's", None, [0.1, 0.1]),
    ]
    lines = handover.table(rows).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["", "", "1 of 2", ""]
    assert lines[2].startswith("| mine | 0.1 | 0.1250 | 0.1000 to 0.1500 |")
    assert lines[3].startswith("| the paper's |  | 0.1000 |")


def test_it_writes_its_table_and_the_section(tmp_path, monkeypatch):
    data = tmp_path / "given.jsonl"
    data.write_text("\n".join(json.dumps({"question": problem}) for problem in PROBLEMS), encoding="utf-8")
    (tmp_path / "tables").mkdir()
    monkeypatch.setattr(handover, "TOKENS", 4)
    page = tmp_path / "agents.md"
    page.write_text(f"before\n{handover.BEGIN}\nold\n{handover.END}\nafter\n", encoding="utf-8")
    printed = handover.main(str(data), "tiny", 1, folder=str(tmp_path))
    written = json.loads((tmp_path / "tables" / "handover.json").read_text(encoding="utf-8"))
    said = handover.section(written)
    assert handover.table(written["rows"]) == printed
    assert written["problems"] == 1
    assert page.read_text(encoding="utf-8") == f"before\n{handover.BEGIN}\n{said}\n{handover.END}\nafter\n"


def test_the_committed_section_is_what_the_table_says():
    docs = Path(nbkv.__file__).resolve().parents[1] / "docs"
    data = json.loads((docs / "tables" / "handover.json").read_text(encoding="utf-8"))
    page = (docs / "agents.md").read_text(encoding="utf-8")
    assert handover.BEGIN in page
    assert marked(page, handover.BEGIN, handover.section(data), handover.END) == page
