"""Choices, what decides them, and the table of decisions: picks, intervals, verdicts, and faults that show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.families.blend.layerwise import LayerwisePlacement
from nbkv.studies.decisions import option_odds, page, table
from nbkv.studies.decisions.option_odds import Decision, best_paragraph, decisions
from nbkv.studies.decisions.rivals import bm25, picks
from nbkv.studies.decisions.table import NAIVE, DecisionTask, is_right, moved, summary, wilson
from nbkv.tasks import Choice, evaluate, judge, last_words, ledger, tool_choice
from nbkv.tasks.choices.judge import shared_words
from nbkv.tasks.choices.tool_choice import TOOLS

ROOT = Path(__file__).resolve().parents[2]


# choices


def test_last_words_differ_in_their_last_word_only():
    items = last_words(ledger(n=8), options=4)
    for item, source in zip(items, ledger(n=8), strict=True):
        assert item.options[item.right] == source.answers[0]
        assert len(set(item.options)) == 4
        assert len({option.rpartition(" ")[0] for option in item.options}) == 1
        assert item.chunks == source.chunks
    assert len({item.right for item in items}) > 1


def test_every_request_is_asked_once_with_the_tool_that_serves_it():
    items = tool_choice(seed=3)
    assert sorted(item.name for item in items) == sorted(request for tool in TOOLS for request in tool.requests)
    for item in items:
        assert item.options[item.right] == item.answers[0]
        assert item.chunks[item.right].startswith(item.answers[0])
        assert len(set(item.options)) == len(item.chunks) == 6
    assert len({item.right for item in items}) > 3
    assert tool_choice(seed=3) == items
    assert tool_choice(seed=4) != items


def test_names_of_tools_begin_no_other():
    names = [tool.name for tool in TOOLS]
    assert not any(a != b and b.startswith(a) for a in names for b in names)


@pytest.mark.parametrize("options", [1, 17, 2.5, True, "6"])
def test_a_number_of_options_that_cannot_be_is_refused(options):
    with pytest.raises(BadOption, match="options="):
        tool_choice(options=options)


@pytest.fixture
def hotpot(tmp_path):
    """Write a file of two questions: one with an answer in a supporting sentence, one answered by yes."""
    padding = "It has been written about by many people over many years."
    distractors = [
        [f"City {i}", [f"The mayor of city {i} was born in a small village in {1900 + i}."]] for i in range(4)
    ]
    where = ["Ada", ["Ada was born in the village of Alma in 1901, near a lake.", f" {padding}"]]
    facts = [["Ada", 0], ["City 0", 0]]
    record = {"context": [where, *distractors], "supporting_facts": facts, "type": "bridge"}
    ask = record | {"question": "In which village was Ada born?", "answer": "Alma", "_id": "a"}
    yes = record | {"question": "Was Ada born?", "answer": "yes", "_id": "b"}
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps([ask, yes]), encoding="utf-8")
    return path


def test_a_judge_has_one_statement_that_holds_the_answer(hotpot):
    (item,) = judge(hotpot, options=4)

    assert item.answers == [item.options[item.right]]
    assert "Alma" in item.chunks[item.right]
    assert sum("Alma" in chunk for chunk in item.chunks) == 1
    assert item.chunks == [f"- {option}\n" for option in item.options]
    assert len(item.options) == 4
    assert not any("City 0" in chunk or "city 0" in chunk for chunk in item.chunks)  # it supports the question
    assert judge(hotpot, options=5) == []
    assert shared_words("In which village?", "The village of Alma") == 1


def test_choices_are_items_that_evaluate_takes(session_of):
    items = [Choice([" w1 w2", " w3"], " w4", ["w5"], "x", metrics=("match_any",), options=("w5", "w6"), right=0)]
    frame = evaluate(session_of(), items, strategy="prefix")
    assert frame["correct"].isin([0.0, 1.0]).all()


# decisions


@pytest.fixture(scope="module")
def reader():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


@pytest.fixture(scope="module")
def currencies():
    return last_words(ledger(seed=101, n=4, chunks=4), seed=101)


def test_the_reader_decides_right_in_full_and_at_the_whole_budget(reader, currencies):
    for item in currencies[:2]:
        made = decisions(reader, item, [("bos", "epic(budget=1.0)"), ("bos", NAIVE)])
        assert made["full"].pick == item.right
        assert made["bos epic(budget=1.0)"].odds == pytest.approx(made["full"].odds, abs=1e-3)
        assert made[f"bos {NAIVE}"].odds != pytest.approx(made["full"].odds, abs=1e-3)
        assert made[f"bos {NAIVE}"].share < 0.2 < made["full"].share


def test_odds_are_the_log_likelihood_that_a_plain_forward_gives(reader, currencies):
    import torch

    item = currencies[0]
    made = decisions(reader, item, [("bos", NAIVE)])["full"]
    ctx = reader._open()
    prompt = list(reader._prompt(item.prompt(item.chunks)).ids)
    for option, odds in zip(item.options, made.odds, strict=True):
        own = ctx.codec.part(option, first=False)
        with torch.no_grad():
            logits = reader.adapter.model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1]
        said = logits.log_softmax(-1)[range(len(own)), own].sum()
        assert odds == pytest.approx(float(said), abs=1e-3)


def test_a_fault_in_placing_chunks_is_seen_in_the_decisions(reader, currencies, monkeypatch):
    def odds():
        return decisions(reader, currencies[0], [("bos", NAIVE)])[f"bos {NAIVE}"].odds

    before = odds()
    put = LayerwisePlacement._put

    def swapped(self, layer, keys, values, piece):
        put(self, layer, keys, values.flip(-1), piece)

    monkeypatch.setattr(LayerwisePlacement, "_put", swapped)
    assert odds() != pytest.approx(before, abs=1e-2)


def test_a_pick_that_is_shifted_is_seen_in_the_table(reader, currencies, monkeypatch):
    task = DecisionTask("currency", "tiny", 2, ("bos",))
    monkeypatch.setitem(table.SINKS, "bos", (NAIVE,))

    def full():
        (row, *_) = summary(list(table.measure(reader, task, currencies[:2])))
        return row["right"][0]

    assert full() == 1.0
    likely = option_odds.AskedChoice._odds
    monkeypatch.setattr(option_odds.AskedChoice, "_odds", lambda self, *given: -likely(self, *given))
    assert full() < 1.0


def test_the_first_paragraph_is_the_one_that_a_ranking_puts_first(session_of, words):
    session = session_of()
    item = Choice([words(9, seed=at) for at in range(3)], "w1", ["x"], "rerank", options=("a", "b", "c"), name="w5 w6")
    made = best_paragraph(session, item, [("none", NAIVE)])
    ranking = session.rerank("w5 w6", item.chunks)

    assert made["full"].pick == ranking.order[0]
    assert made["full"].odds == pytest.approx(ranking.scores, abs=1e-5)
    assert made[f"none {NAIVE}"].odds != pytest.approx(ranking.scores, abs=1e-4)


# rivals


def test_bm25_is_the_formula_worked_by_hand():
    # two documents of 2 and 4 words; "cat" in one of them, "dog" in both
    found = bm25("the cat dog", ["cat dog", "dog dog bird fish"])
    rare, common = 0.6931471805599453, 0.1823215567939546
    first, second = 1.2 * (0.25 + 0.75 * 2 / 3), 1.2 * (0.25 + 0.75 * 4 / 3)
    assert found[0] == pytest.approx(rare * 2.2 / (1 + first) + common * 2.2 / (1 + first))
    assert found[1] == pytest.approx(common * 2 * 2.2 / (2 + second))
    assert bm25("zebra", ["cat", "dog"]) == [0.0, 0.0]


def test_rivals_look_at_no_model():
    item = tool_choice()[0]
    found = picks(item, 0)
    assert found["first"] == 0
    assert found["words"] == max(range(6), key=bm25(item.name, item.chunks).__getitem__)
    assert len({picks(item, number)["random"] for number in range(40)}) == 6


# the table and its page


def test_intervals_are_wilsons():
    assert wilson([True] * 8 + [False] * 2) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    low, high = wilson([True] * 10)
    assert (round(low, 3), high) == (0.722, 1.0)


def test_odds_that_are_the_same_have_not_moved():
    one = Decision((-1.0, -2.0), 1.0)
    assert moved(one, Decision((4.0, 3.0), 0.1)) == 0
    assert moved(one, Decision((-2.0, -1.0), 0.1)) == pytest.approx(0.4621, abs=1e-3)
    assert one.pick == 0


def questions(*cells):
    """Return questions of two options from (pick of full, is it right, pick of the method, is it right)."""
    return [
        {"options": 2, "cells": {"full": [a, b, 1.0, 0.0], "none x": [c, d, 0.1, 0.5], "first": [0, b, 0.0, None]}}
        for a, b, c, d in cells
    ]


def test_equal_accuracy_and_broken_consistency_are_told_apart():
    # half of full's right answers are lost and as many others won
    flipped = questions(*[(0, True, 1, False)] * 10, *[(0, False, 1, True)] * 10, *[(1, True, 1, True)] * 10)
    full, method, rival = summary(flipped)
    assert full["right"][0] == method["right"][0] == pytest.approx(2 / 3, abs=1e-3)
    assert full["equal"][0] == 1.0
    assert method["equal"][0] == pytest.approx(1 / 3, abs=1e-3)
    assert (method["lost"], method["won"]) == (10, 10)
    about = {"task": "judge", "model": "m", "n": 30, "options": 4, "rows": [full, method, rival]}
    assert [row["row"] for row in page.broken(about)] == ["none x"]
    assert page.broken(about | {"options": 2}) == []  # full is at chance: its accuracy says nothing
    text = page.page({"judge m": about})
    assert "- `none x` on judge, m: right 0.67 (full 0.67)" in text
    assert "10 lost and 10 won" in text

    same = summary(questions(*[(0, True, 0, True)] * 20, *[(1, False, 1, False)] * 10))
    about["rows"] = same
    assert page.broken(about) == []
    assert "No strategy here" in page.page({"judge m": about})


@pytest.mark.parametrize(("right", "able"), [(0, False), (9, False), (16, True)])
def test_a_model_that_is_at_chance_is_said_to_be(right, able):
    rows = summary(questions(*[(0, at < right, 0, at < right) for at in range(18)]))
    about = {"task": "judge", "model": "m", "n": 18, "options": 2, "rows": rows}
    assert page.able(about) is able
    assert ("not above chance" in page.page({"judge m": about})) is not able


def test_of_paragraphs_each_supporting_one_is_right(hotpot):
    (item, _) = table.paragraphs(hotpot, 2)
    supporting = {at for at, text in enumerate(item.chunks) if text.startswith(("Ada", "City 0"))}
    assert {at for at in range(len(item.options)) if is_right(item, at)} == supporting
    assert item.name in {"In which village was Ada born?", "Was Ada born?"}


def test_the_page_is_the_one_that_its_table_makes():
    known = json.loads((ROOT / "docs" / "tables" / "decisions.json").read_text("utf-8"))
    assert (ROOT / "docs" / "decisions.md").read_text("utf-8") == page.page(known)
    assert {f"{task.name} {task.model}" for task in table.TASKS} >= set(known)
    for each in known.values():
        assert each["rows"][0]["row"] == "full"
        assert each["rows"][0]["equal"][0] == 1.0


def test_asked_for_one_task_the_others_stay(tmp_path, monkeypatch, currencies):
    monkeypatch.setattr(table, "TASKS", (DecisionTask("currency", "tiny", 1, ("bos",)),))
    monkeypatch.setitem(table.SINKS, "bos", (NAIVE,))
    monkeypatch.setattr(DecisionTask, "items", lambda self, folder: currencies[:1])
    path = tmp_path / "tables" / "decisions.json"
    path.parent.mkdir()
    rows = summary(questions((0, True, 0, True)))
    path.write_text(json.dumps({"other m": {"task": "judge", "model": "m", "n": 1, "options": 2, "rows": rows}}))

    table.main(["--out", str(tmp_path)])
    made = json.loads(path.read_text("utf-8"))
    assert set(made) == {"other m", "currency tiny"}
    assert made["currency tiny"]["n"] == 1
    assert "currency, tiny: 1 questions" in (tmp_path / "decisions.md").read_text("utf-8")
