"""Conversations: turns kept, taken back and shown, with what reuse has saved of measured time."""

import json

import pytest

from nbkv.errors import BadOption, BadPrompt
from nbkv.session.stats import Meter


@pytest.fixture
def chat(session_of, words):
    made = session_of().chat(words(24))
    for seed in range(3):
        made.send(words(6, seed=seed), max_new_tokens=4)
    return made


def test_a_turn_taken_back_makes_room_for_another(chat, words):
    first, second, _ = chat.results
    chat.rewind(2)
    assert chat.results == [first]
    again = chat.send(words(6, seed=1), max_new_tokens=4)
    assert again.prompt_ids == second.prompt_ids
    assert again.token_ids == second.token_ids
    assert again.tokens.reused >= len(first.prompt_ids)
    other = chat.send(words(6, seed=9), max_new_tokens=4)
    assert other.prompt_ids[: len(again.prompt_ids)] == again.prompt_ids
    chat.rewind(1)
    assert chat.results == []
    assert chat.to_dict()["turns"] == []
    assert chat.to_dict()["system"]


@pytest.mark.parametrize("turn", [0, 4, -1, True, "1", 1.0, None])
def test_a_turn_that_is_none_is_one_line(chat, turn):
    with pytest.raises(BadOption, match=r"^no turn .* \(this chat has 3 turns, the first is 1\)$"):
        chat.rewind(turn)
    assert len(chat.results) == 3


def test_a_stream_is_a_turn_once_it_is_kept(chat, words):
    stream = chat.stream(words(5), max_new_tokens=3)
    assert "".join(stream) == stream.result.text
    assert len(chat.results) == 3
    chat.keep(words(5), stream.result)
    assert chat.send(words(5, seed=2), max_new_tokens=1).tokens.reused >= len(stream.result.prompt_ids)
    with pytest.raises(BadPrompt, match="the turn is empty"):
        chat.stream("")


def test_what_was_saved_is_the_time_of_a_whole_prompt_less_that_taken(chat):
    told = chat.to_dict()
    json.dumps(told)
    first, *later = told["turns"]
    assert (first["saved_s"], chat.results[0].tokens.reused) == (0.0, 0)
    rate = chat.results[0].timing.ttft_s / len(chat.results[0].prompt_ids)
    for turn, result in zip(later, chat.results[1:], strict=True):
        assert turn["full_s"] == pytest.approx(rate * len(result.prompt_ids))
        assert turn["saved_s"] == pytest.approx(turn["full_s"] - result.timing.ttft_s)
    total = sum(turn["saved_s"] for turn in later)
    assert ("saved" if total > 0 else "lost") in repr(chat)


def row(prompt, ttft_s, reused=0, share=1.0):
    return {"prompt": prompt, "ttft_s": ttft_s, "reused": reused, "compute_share": share, "generated": 1}


@pytest.mark.parametrize(
    ("rows", "tokens", "seconds"),
    [
        ([], 10, None),
        ([row(100, 1.0, reused=1)], 10, None),
        ([row(100, 1.0, share=0.5)], 10, None),
        ([row(100, 1.0)], 200, 2.0),
        ([row(100, 1.0)], 401, None),
        ([row(10, 5.0), row(100, 1.0)], 50, 0.5),
    ],
)
def test_time_is_told_only_where_a_prompt_of_about_that_length_was_measured(rows, tokens, seconds):
    meter = Meter()
    meter.rows.extend(rows)
    assert meter.full_ttft_s(tokens) == seconds


def test_what_is_not_known_is_said(chat, monkeypatch):
    from nbkv.show.chat import saved_words

    told = chat.to_dict()
    for turn in told["turns"]:
        turn["saved_s"] = turn["full_s"] = None
    assert "not known" in saved_words(told)
    told["turns"][1]["saved_s"] = 2.0
    assert saved_words(told).startswith("saved 2.00 s so far (")
    assert "1 turn too long to say" in saved_words(told)
    told["turns"][1]["saved_s"] = -2.0
    assert "lost 2.00 s" in saved_words(told)


def test_answers_are_drawn_from_markdown_without_what_could_run(session_of, words):
    from nbkv.show import chat_html

    told = session_of().chat().to_dict()
    chat = session_of().chat()
    chat.send(words(5), max_new_tokens=1)
    told = chat.to_dict()
    told["turns"][0]["answer"]["text"] = "**bold**\n\n- one\n- two\n\n<script>alert(1)</script> costs $12 or $5 `x`"
    html = chat_html(told)
    assert "<strong>bold</strong>" in html
    assert "<li>one</li>" in html
    assert "<script" not in html
    assert "nbkv-chat" in html
