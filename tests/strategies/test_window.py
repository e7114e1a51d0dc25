"""The newest tokens are what stays."""

from __future__ import annotations

from nbkv.strategy import parse

HEADS = 2  # those of `layer_of`


def test_window_keeps_the_newest(layer_of, left):
    assert left(parse("window"), layer_of(9), 9, 4) == [[5, 6, 7, 8]] * HEADS


def test_the_newest_of_the_prompt_are_what_a_result_says_was_kept(session_of, words):
    result = session_of().generate(words(30), strategy="window(keep=12)", max_new_tokens=4)
    assert result.kept.nonzero()[0].tolist() == list(range(22, 31))  # 3 of the answer's tokens take room too
