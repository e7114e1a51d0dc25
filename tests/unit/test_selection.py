from __future__ import annotations

import pytest
import torch

from nbkv.kv import Span
from nbkv.selection import best, count, first, whole, windows

ROWS = torch.arange(10, 30)


def scores(**high):
    values = torch.zeros(20)
    for at, value in high.items():
        values[int(at[1:]) - 10] = value
    return values


@pytest.mark.parametrize(
    ("budget", "n", "expected"), [(0, 9, 0), (0.01, 9, 1), (0.5, 9, 5), (1, 9, 9), (0.2, 10, 2), (0.3, 10, 3)]
)
def test_a_budget_in_rows(budget, n, expected):
    assert count(budget, n) == expected


def test_the_best_rows_come_in_order_of_position():
    assert best(scores(_12=3, _25=5, _17=4), ROWS, 2).tolist() == [17, 25]
    assert best(scores(), ROWS, 99) is ROWS


def test_the_first_rows_of_spans():
    assert first([Span(3, 9), Span(20, 22)], 4) == [3, 4, 5, 6, 20, 21]


def test_windows_need_enough_hits():
    picked = torch.tensor([16, 17, 18, 19, 20, 24])

    assert windows(picked, ROWS, 8, 5).tolist() == list(range(16, 24))
    assert windows(picked, ROWS, 8, 1).tolist() == list(range(16, 30))
    assert windows(picked[:0], ROWS, 8, 1).tolist() == []


SENTENCES = [Span(10, 13), Span(13, 20), Span(20, 22), Span(22, 30)]


def test_whole_spans_best_first_as_they_fit():
    high = scores(_11=1, _15=5, _21=4, _28=3)

    assert whole(high, ROWS, SENTENCES, 7).tolist() == list(range(13, 20))
    assert whole(high, ROWS, SENTENCES, 9).tolist() == list(range(13, 22))
    assert whole(high, ROWS, SENTENCES, 12).tolist() == [10, 11, 12, *range(13, 22)]
    assert whole(high, ROWS, SENTENCES, 20).tolist() == ROWS.tolist()
    assert whole(high, ROWS, SENTENCES, 20, share=0.7).tolist() == list(range(13, 22))
    assert whole(high, ROWS, SENTENCES, 0).tolist() == []
    assert whole(high[:0], ROWS[:0], SENTENCES, 5).tolist() == []


def test_a_span_that_does_not_fit_is_cut_around_its_best_row():
    assert whole(scores(_15=5), ROWS, SENTENCES, 3).tolist() == [14, 15, 16]
    assert whole(scores(_13=5), ROWS, SENTENCES, 3).tolist() == [13, 14, 15]
    assert whole(scores(_19=5), ROWS, SENTENCES, 3).tolist() == [17, 18, 19]
