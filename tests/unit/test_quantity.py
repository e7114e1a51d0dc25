from __future__ import annotations

import pytest

from nbkv.sweep.page.quantity import column, flat, measured, said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"select": 0.12345, "rows": 2}, "select 0.1235, rows 2"),
        ([0.1, [1, "a"]], "0.1, 1, a"),
        (True, "yes"),
        (None, ""),
        (float("nan"), ""),
        (12345.6, "12346"),
        (-5e9, "-5000000000"),
        (1e-7, "1e-07"),
    ],
)
def test_values_are_read_without_brackets_and_without_powers(value, words):
    assert said(value) == words


def test_nested_figures_get_names_of_their_own():
    assert flat({"kl": {"h2o": 1, "tova": {"last": 2}}, "n": 3}) == {"kl h2o": 1, "kl tova last": 2, "n": 3}


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.025691, "nats", "0.0257 nats"),
        (5_800_000_004, "bytes", "5.80 GB"),
        (-2e6, "bytes", "-2.00 MB"),
        (0.95, "of 1", "95 %"),
        (12, "", "12"),
        (1234.5, "tokens/s", "1234 tokens/s"),
        ("epic", "s", "epic"),
        (True, "of 1", "yes"),
    ],
)
def test_a_value_in_a_sentence_has_its_unit_and_three_digits(value, unit, words):
    assert measured(value, unit) == words


@pytest.mark.parametrize(
    ("values", "unit", "name", "cells"),
    [
        ([5.8e9, 12e6, None], "bytes", "x (GB)", ("5.8", "0.012", "")),
        ([2_000, 500], "bytes", "x (kB)", ("2", "0.5")),
        ([0, 12], "bytes", "x (B)", ("0", "12")),
        ([0.95, 0.1286], "of 1", "x (%)", ("95", "12.86")),
        ([0.5, 1], "s", "x (s)", ("0.5", "1")),
        ([True, 0.5], "of 1", "x (of 1)", ("yes", "0.5")),
        (["a", None], "", "x", ("a", "")),
    ],
)
def test_a_column_has_one_unit_in_which_it_can_be_compared(values, unit, name, cells):
    made = column("x", values, unit)
    assert (made.name, made.cells) == (name, cells)
    assert made.numbers == all(value is None or type(value) in (int, float) for value in values)
