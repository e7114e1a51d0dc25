"""The bound of ``auto(max_kl=…)`` on questions it has not learned from: it holds, or the answers are exact."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.families.routing import cost_model
from nbkv.families.routing.cost_model import CostModel
from nbkv.tasks import ledger

LEARNED, HELD_OUT = 60, 200
CHEAP = CostModel(overhead=1e-4, row=1e-3, pair=1e-6, move=1e-6, copy=1e-7)
ITEMS = ledger(seed=61, n=LEARNED + HELD_OUT, chunks=4, lines=3, distance=0)


@pytest.mark.parametrize(("blend", "max_kl", "serves"), [("passage", 0.5, True), ("passage", 0.05, False)])
def test_the_bound_holds_on_held_out_questions(blend, max_kl, serves, monkeypatch):
    monkeypatch.setattr(cost_model, "measure", lambda _: CHEAP)
    monkeypatch.setattr("nbkv.strategies.auto.learn_pace", lambda *_: None)
    monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)
    above = blended = 0
    with nbkv.load("tiny", strategy=f"auto(max_kl={max_kl}, blend='{blend}')") as session:
        for number, item in enumerate(ITEMS):
            chunks = [session.chunk(text, name=f"c{i}") for i, text in enumerate(item.chunks)]
            held_out = number >= LEARNED
            result = session.generate([*chunks, item.question], max_new_tokens=8, fidelity=held_out)
            if held_out and result.lineage != "exact":
                blended += 1
                above += result.fidelity.kl > max_kl
            session.store.clear()
            session.chunks.clear()

    assert (blended > HELD_OUT / 2) == serves
    assert above <= 0.05 * HELD_OUT, f"{above} of {blended}"
