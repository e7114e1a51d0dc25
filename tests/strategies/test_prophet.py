"""What is ProphetKV's own: rows that the question attends to, in windows, and beside the first of each chunk."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategy import parse


@pytest.fixture
def asked(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(32, seed=seed), name=name) for seed, name in enumerate("ab"))
    return session, ["w1 w2 w3", a, b, words(5, seed=9)]  # rows 4 to 36 to 68


def recomputed(asked, spec):
    session, prompt = asked
    result = session.generate(prompt, strategy=spec, max_new_tokens=1)
    return [int(row) for row in (result.provenance == Provenance.RECOMPUTED).nonzero()[0]]


def test_rows_with_the_highest_mean_attention_of_the_question(make_model, tokenizer, words):
    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chunk = session.chunk(words(30, seed=1), name="c")
        prompt = session._prompt([chunk, words(5, seed=3)])  # an exact prefix would be no chunk to choose from
        session.store.clear()
        made = parse("prophet(budget=0.2)").prefill(Request(prompt, 1, keep=False), session._ctx.for_request())
        behind = [words(4, seed=2), chunk, words(5, seed=3)]
        rows = recomputed((session, behind), "prophet(budget=0.2)")
        seen = torch.zeros(40)
        naive = parse("prophet(budget=0)").prefill(
            Request(session._prompt(behind), 1, keep=False), session._ctx.for_request()
        )
        naive.own.scout(lambda one: seen.add_(one.weights.sum(dim=(0, 1))))

    assert made.provenance.shape == (36,)
    assert rows == sorted((5 + seen[5:35].topk(6).indices).tolist())


def test_windows_are_taken_whole_or_not_at_all(asked):
    alone = recomputed(asked, "prophet(budget=0.3)")
    grouped = recomputed(asked, "prophet(budget=0.3, window=4, hits=2)")
    hits = {at: sum(row // 4 == at for row in alone) for at in range(1, 17)}
    full = [at for at, n in hits.items() if n >= 2]

    assert full
    assert len(full) < len({row // 4 for row in alone})  # some window had a single one
    assert {row // 4 for row in grouped} <= set(full)
    assert len(grouped) <= 20  # the budget: the best rows of more windows than it holds
    if 4 * len(full) <= 20:
        assert grouped == [row for at in full for row in range(4 * at, 4 * at + 4)]


def test_no_window_with_so_many_hits_leaves_the_rows_as_picked(asked):
    alone = recomputed(asked, "prophet(budget=0.1)")
    assert recomputed(asked, "prophet(budget=0.1, window=4, hits=5)") == alone  # a window of four has no five


def test_the_first_of_each_chunk_are_taken_inside_the_budget(asked):
    rows = recomputed(asked, "prophet(budget=0.25, first_k=3)")

    assert {4, 5, 6, 36, 37, 38} <= set(rows)
    assert len(rows) == 16
    rest = [row for row in rows if row not in {4, 5, 6, 36, 37, 38}]
    assert set(rest) <= set(recomputed(asked, "prophet(budget=0.25)"))
    assert recomputed(asked, "prophet(budget=0.0625, first_k=8)") == [4, 5, 6, 7]  # the budget ends first


@pytest.mark.parametrize("spec", ["window=-1", "hits=1.5", "first_k=-2", "budget=1.5"])
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"prophet({spec})")
