from __future__ import annotations

import random

import pytest
from entries import SPACE, ids_of

from nbkv.stores.tiers.key import STEP, EntryKey, PathKeys, mark_positions


def test_digests_do_not_depend_on_the_order_in_which_they_are_asked_for():
    ids, positions = ids_of(1, 300), list(range(301))
    expected = [PathKeys(SPACE, ids[:at]).at(at) for at in positions]
    for seed in range(3):
        asked, keys = random.Random(seed).sample(positions, 301), PathKeys(SPACE, ids)
        assert [keys.at(at) for at in asked] == [expected[at] for at in asked]
    assert len(set(expected)) == 301


@pytest.mark.parametrize(
    ("start", "stop", "marks"),
    [(0, 10, [10]), (0, STEP, [STEP]), (70, 200, [128, 192, 200]), (64, 65, [65]), (5, 5, [])],
)
def test_marks_are_the_steps_behind_the_start_and_the_end(start, stop, marks):
    assert mark_positions(start, stop) == marks


@pytest.mark.parametrize("text", ["", "../../x", "/etc/passwd", "a" * 40, "g" * 40 + "-0-1", "a" * 40 + "-0-1/../x"])
def test_no_name_leads_out_of_the_folder(text):
    assert EntryKey.read(text) is None


def test_a_key_comes_back_from_its_text():
    key = PathKeys(SPACE, ids_of(1)).entry(3, 70)
    assert EntryKey.read(str(key)) == key
