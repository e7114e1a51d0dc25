"""Other allotments of moved rows: each takes what its name says, as many rows as there are for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nbkv.families.blend.allotment import Allotment, MovedRun
from nbkv.studies.history import rivals


def partial_of(*runs):
    return SimpleNamespace(ids=torch.arange(90), allotment=Allotment(tuple(runs), 0, 5))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (rivals.ScoreAlone, []),
        (rivals.FirstAlone, [5, 6]),
        (rivals.NewestAlone, [83, 84]),
        (rivals.StalestAlone, [45, 46]),  # much went in front of the second run, two tokens in front of the first
    ],
)
def test_each_takes_the_rows_that_its_name_says(kind, rows):
    partial = partial_of(MovedRun(5, 45, 7), MovedRun(45, 85, 87))
    strategy = kind(budget=0.1)
    ahead = strategy.ahead(partial)

    assert ahead == rows
    assert len(ahead) == (partial.allotment.rows(0.1) if rows else 0)
    assert strategy.spec == kind.title


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_rows_are_the_same_for_a_prompt_and_others_for_another(seed):
    one, other = (partial_of(MovedRun(5, 85, 60)) for _ in range(2))
    other.ids = other.ids + 1 + seed
    rows = rivals.AnyAlone(budget=0.5)

    assert rows.ahead(one) == rows.ahead(one) != rows.ahead(other)
    assert len(set(rows.ahead(one))) == one.allotment.rows(0.5)


@pytest.mark.parametrize("answer", [(7, 8, 9), (3,), ()])
def test_the_last_answer_is_found_where_it_stands_last(answer):
    ids = [1, 7, 8, 9, 4, 3, 7, 8, 9, 5, 5]
    allotment = Allotment((MovedRun(1, 9, 4),), 0, 1)
    partial = SimpleNamespace(ids=torch.tensor(ids), allotment=allotment)
    places = {(7, 8, 9): [8, 7, 6], (3,): [5], (): []}

    assert rivals.AnswerFirst(answer=answer).order(partial).tolist() == places[answer]
