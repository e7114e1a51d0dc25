"""Rolling hashes: every window at once, and nothing returned that was not compared token by token."""

from __future__ import annotations

import numpy as np
import pytest

from nbkv.prompts import matching
from nbkv.prompts.matching import Match, find_matches, rolling_hashes, without_overlap


def ids(*values):
    return np.array(values, dtype=np.int64)


def drawn(n, seed=0):
    return np.random.default_rng(seed).integers(0, 150_000, n)


def hashed(known, width):
    return [rolling_hashes(each, width) for each in known]


def test_equal_windows_have_equal_hashes_wherever_they_stand():
    sequence = drawn(200)
    sequence[150:170] = sequence[30:50]
    marks = rolling_hashes(sequence, 20)

    assert len(marks) == 181
    assert marks[150] == marks[30]
    assert len(set(marks.tolist())) == 180


def test_a_window_is_hashed_as_horner_would():
    sequence, width = drawn(40), 7
    mixed = [int(value) for value in matching._mixed(sequence)]
    for at, mark in enumerate(rolling_hashes(sequence, width).tolist()):
        value = 0
        for each in mixed[at : at + width]:
            value = (value * matching._BASE + each) % 2**64
        assert mark == value


def test_fewer_tokens_than_a_window_have_no_hash():
    assert len(rolling_hashes(ids(1, 2), 3)) == 0
    assert find_matches(ids(1, 2), [drawn(9)], hashed([drawn(9)], 3), 3) == []
    assert find_matches(drawn(9), [], [], 3) == []


def test_runs_are_found_at_other_places_and_grow_to_both_sides():
    known, new = [drawn(300, 1), drawn(200, 2)], drawn(500, 3)
    new[100:165] = known[0][37:102]
    new[400:450] = known[1][150:200]

    found = find_matches(new, known, hashed(known, 16), 16)

    assert sorted(found) == [Match(100, 0, 37, 65), Match(400, 1, 150, 50)]


def test_the_shortest_run_is_one_window():
    known, new = [drawn(300, 1)], drawn(90, 3)
    new[40:56] = known[0][77:93]

    assert find_matches(new, known, hashed(known, 16), 16) == [Match(40, 0, 77, 16)]
    assert find_matches(new[41:], known, hashed(known, 16), 16) == []


def test_what_begins_a_sequence_and_what_ends_one():
    known = [drawn(30, 1), drawn(30, 2)]
    new = np.concatenate([known[0][10:], known[1][:20]])

    assert find_matches(new, known, hashed(known, 8), 8) == [Match(0, 0, 10, 20), Match(20, 1, 0, 20)]


def test_the_one_that_goes_on_is_found_among_many_that_begin_alike():
    shared = drawn(40, 1)
    known = [np.concatenate([shared, drawn(20, 2 + i)]) for i in range(12)]

    assert Match(0, 3, 0, 60) in find_matches(known[3], known, hashed(known, 8), 8)


def test_a_hash_alone_proves_nothing(monkeypatch):
    monkeypatch.setattr(matching, "rolling_hashes", lambda ids, width: np.zeros(len(ids) - width + 1, dtype=np.uint64))
    known = [drawn(64, 1)]

    assert find_matches(drawn(64, 2), known, [matching.rolling_hashes(known[0], 8)], 8) == []


def test_text_that_repeats_itself_ends_in_time():
    same = np.full(3000, 7)
    found = without_overlap(find_matches(same, [same], hashed([same], 16), 16), np.zeros(3000, dtype=np.bool_), 16)

    assert sum(match.length for match in found) > 1000


def test_the_longest_come_first_and_none_overlap():
    matches = [Match(0, 0, 0, 10), Match(5, 1, 0, 20), Match(22, 2, 3, 8)]
    free = np.zeros(40, dtype=np.bool_)

    assert without_overlap(matches, free, 1) == [Match(0, 0, 0, 5), Match(5, 1, 0, 20), Match(25, 2, 6, 5)]
    assert without_overlap(matches, free, 6) == [Match(5, 1, 0, 20)]
    assert without_overlap(matches, free, 1, whole=True) == [Match(5, 1, 0, 20)]


@pytest.mark.parametrize(("start", "stop", "left"), [(0, 3, Match(3, 0, 3, 7)), (2, 4, Match(4, 0, 4, 6))])
def test_what_is_taken_stays(start, stop, left):
    taken = np.zeros(10, dtype=np.bool_)
    taken[start:stop] = True

    assert without_overlap([Match(0, 0, 0, 10)], taken, 1) == [left]
