"""The table of eviction on chains of steps: equal bytes are equal, cells are made once, the page says what was made."""

from __future__ import annotations

import json

import pytest

import nbkv
from nbkv.studies import reasoning
from nbkv.studies.divergence import trace
from nbkv.studies.eviction import EqualBytes, mean_slots
from nbkv.studies.reasoning import markdown, measure, number, specs

GIVEN = [
    {"question": f"who bought {what} ? " + "milk tea " * 20, "answer": "He did.\n#### 7"} for what in ("milk", "tea")
]


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


@pytest.mark.parametrize(("keep", "prompt", "answer"), [(0.3, 110, 160), (0.5, 110, 160), (0.3, 90, 70), (0.3, 30, 12)])
def test_a_budget_holds_as_much_on_average(keep, prompt, answer):
    budget, window = EqualBytes(keep, 46).budget(prompt, answer)
    share = mean_slots(prompt, answer, budget, window) / (prompt + answer / 2)

    assert window < budget
    assert keep - 0.06 < share <= keep


def test_slots_are_counted_as_they_are_held(session):
    tokens = list(range(5, 45))
    one = trace(session, "milk " * 30, tokens, "lazyeviction(keep=20, window=8)")
    n, size = len(session._prompt("milk " * 30).ids), session.adapter.token_bytes

    assert one.mean_held / size == pytest.approx(mean_slots(n, len(tokens), 20, 8))


@pytest.mark.parametrize(
    ("text", "found"), [("so 3 + 4 = 7.", 7), ("#### 1,234", 1234), ("-2.5 apples", -2.5), ("none", None)]
)
def test_the_last_number_is_the_answer(text, found):
    assert number(text) == found


def test_each_cell_is_measured_once_and_the_page_shows_it(session, tmp_path, monkeypatch):
    monkeypatch.setattr(reasoning, "BASELINES", ("streaming",))
    data = {"command": "this test", "regime": "a few", "calibrated": {"window": 4}, "cells": {}}
    out = tmp_path / "cells.json"
    measure(session, GIVEN, 24, data, out)

    wanted = list(map(str, specs(4)))
    assert set(data["cells"]) == {f"{at}: {spec}" for at in range(2) for spec in wanted}
    assert all({"kl", "match", "held", "right", "same"} <= cell.keys() for cell in data["cells"].values())
    assert json.loads(out.read_text(encoding="utf-8"))["cells"] == data["cells"]
    page = markdown(data)
    assert all(f"| {spec} | 2 |" in page for spec in wanted)
    assert "nearer to full (KL) than streaming on" in page

    data["cells"]["0: streaming(keep=0.3)"]["kl"] = 77.0
    measure(session, GIVEN, 24, data, out)
    assert data["cells"]["0: streaming(keep=0.3)"]["kl"] == 77.0
