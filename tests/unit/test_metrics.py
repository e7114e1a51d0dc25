from __future__ import annotations

import pytest

from nbkv.errors import BadOption
from nbkv.tasks.metrics import METRICS, check_metrics, em, f1, match_all, match_any, recall, rouge_l


@pytest.mark.parametrize(
    ("text", "answers", "exact", "overlap"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1, 1),
        ("It is the Eiffel Tower", ["eiffel tower"], 0, 2 * 2 / (4 + 2)),
        ("Paris", ["London", "paris!"], 1, 1),
        ("Rome", ["London", "Paris"], 0, 0),
        ("a b b", ["b b b"], 0, 2 * 2 / (2 + 3)),  # the article is dropped, and each b counts as often as both have it
        ("", ["x"], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left of either
    ],
)
def test_squad_scores(text, answers, exact, overlap):
    assert em(text, answers) == exact
    assert f1(text, answers) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # Lin 2004, section 3.1
        ("the gunman kill police", "police kill the gunman", 2 / 4),
        ("the gunman police killed", "police killed the gunman", 2 / 4),
        ("a", "a b c", 2 * 1 / 4),
        ("", "a", 0),
    ],
)
def test_rouge_l(text, answer, score):
    assert rouge_l(text, [answer]) == pytest.approx(score)
    assert rouge_l(text, ["of no word in common", answer]) == pytest.approx(score)


def test_string_matches_are_of_all_or_of_any_and_recall_is_of_whole_words():
    assert match_all("They are 134 and Blue.", ["34", "blue", "red", "1"]) == 0.75
    assert match_any("They are 134.", ["34", "red"]) == 1
    assert match_any("They are 134.", ["red"]) == 0
    assert recall("They are 134 and Dark Blue.", ["34", "dark blue"]) == 0.5


def test_names_are_checked():
    assert check_metrics(["f1", "em"]) == ("f1", "em")
    for bad in ("f1", [], ["f2"]):
        with pytest.raises(BadOption, match="rouge_l"):
            check_metrics(bad)
    assert all(metric("x", ["x"]) == 1 for metric in METRICS.values())
