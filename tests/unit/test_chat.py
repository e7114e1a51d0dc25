"""A conversation keeps what was said, whatever a caller does to what it handed over or the template to its turns."""

from __future__ import annotations

import itertools
import json

import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt
from nbkv.session.stats import Meter

PLAIN = "{% for m in messages %} w9 {{ m.content }} w8{% endfor %} w7{% if deep is defined %} w6{% endif %}"
TRIMS = PLAIN.replace("m.content", "m.content | trim")
SHORT = PLAIN.replace("in messages", "in messages[-3:]")
TWICE = PLAIN.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}")
W = {f"w{i}": i + 3 for i in range(20)}


@pytest.fixture
def session_with(model_of, make_tokenizer):
    opened = []

    def load(template):
        opened.append(nbkv.load(model_of("llama"), tokenizer=make_tokenizer(bos=False, template=template)))
        return opened[-1]

    yield load
    for session in opened:
        session.close()


@pytest.mark.parametrize(
    "template", [None, PLAIN, TRIMS, SHORT, TWICE], ids=["none", "plain", "trims", "short", "twice"]
)
def test_a_chat_goes_on_whatever_the_template_does_to_turns(session_with, template):
    chat = session_with(template).chat("w1 w2")
    results = [chat.send(" w3 ", max_new_tokens=3) for _ in range(5)]

    for before, after in itertools.pairwise(results):
        said = before.token_ids
        assert any(after.prompt_ids[at : at + 3] == said for at in range(len(after.prompt_ids)))
    if template in {None, PLAIN}:
        assert results[-1].prompt_ids[: len(results[0].prompt_ids)] == results[0].prompt_ids
    noted = any("leaves" in note for note in results[-1].notes)
    assert noted == (template == SHORT)


@pytest.mark.parametrize(
    "change",
    [list.clear, lambda given: given.append("w5"), lambda given: given.__setitem__(0, "w6")],
    ids=["clear", "append", "set"],
)
def test_what_was_handed_over_is_copied(session_with, change):
    session = session_with(PLAIN)
    given, variables, opening = ["w3", "w4"], {"deep": ["x"]}, ["w1"]
    chat, reference = session.chat(opening, template_kwargs=variables), session.chat("w1", template_kwargs={"deep": 1})
    chat.send(given, max_new_tokens=2)
    reference.send(["w3", "w4"], max_new_tokens=2)
    for each in (given, opening, variables["deep"]):
        change(each)
    variables.clear()

    assert chat.send("w2", max_new_tokens=2).prompt_ids == reference.send("w2", max_new_tokens=2).prompt_ids


@pytest.mark.parametrize("system", ["", "w1", ["w1", "w2"]], ids=str)
@pytest.mark.parametrize("template", [None, PLAIN])
def test_a_system_message_may_be_empty(session_with, template, system):
    asked = session_with(template).chat(system).send("w5", max_new_tokens=2).prompt_ids
    words = [system] if isinstance(system, str) else system

    assert [i for i in asked if i in (4, 5)] == [W[word] for word in words if word]


@pytest.mark.parametrize("template", [None, PLAIN])
@pytest.mark.parametrize("prefill", ["w4", "w4 w5", " w1"])
def test_an_answer_may_begin_with_given_words(session_with, template, prefill):
    template = template and template.replace("w7", "{% if add_generation_prompt %}w7{% endif %}")
    chat = session_with(template).chat()
    first = chat.send("w3", prefill=prefill, max_new_tokens=2)
    second = chat.send("w2", max_new_tokens=2)
    ids = [W[word] for word in prefill.split()]

    assert list(first.prompt_ids[-len(ids) :]) == ids
    assert second.prompt_ids[: len(first.prompt_ids) + 2] == first.prompt_ids + first.token_ids


@pytest.mark.parametrize("template", [None, PLAIN.replace("w7", "{% if add_generation_prompt %}w7{% endif %}")])
def test_an_answer_that_was_cut_goes_on(session_with, template):
    session = session_with(template)
    whole = session.chat().send("w3", max_new_tokens=9).token_ids
    chat = session.chat()
    parts = [chat.send("w3", max_new_tokens=3)]
    parts += [chat.send(continue_final_message=True, max_new_tokens=3) for _ in range(2)]
    asked = parts[-1].prompt_ids

    assert asked[: len(parts[0].prompt_ids) + 6] == parts[0].prompt_ids + whole[:6]
    assert [part.token_ids for part in parts] == [whole[:3], whole[3:6], whole[6:]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"prompt": ""}, "the turn is empty"),
        ({}, "the turn is None"),
        ({"prompt": 5}, "the turn is an int"),
        ({"prompt": {"role": "user"}}, "the turn is a dict"),
        ({"prompt": ["w1", 5]}, "a part of the turn is an int"),
        ({"prompt": "w1", "prefill": 5}, "prefill=5"),
        ({"prompt": "w1", "continue_final_message": True}, "goes on with the last answer"),
        ({"continue_final_message": True}, "no answer to go on with yet"),
        ({"prompt": "w1", "template_kwargs": 5}, "template_kwargs is an int"),
        ({"prompt": "w1", "stop": 5}, "stop=5"),
    ],
    ids=str,
)
def test_a_turn_that_cannot_be_is_named_and_changes_nothing(session_with, asked, says):
    chat = session_with(PLAIN).chat()
    with pytest.raises((nbkv.BadPrompt, nbkv.BadOption), match=says):
        chat.send(**asked)

    assert chat.send("w1", max_new_tokens=1).prompt_ids == (12, 4, 11, 10)


def test_variables_of_the_template_are_the_chats_or_the_turns(session_with):
    chat = session_with(PLAIN).chat(template_kwargs={"deep": True})
    other = session_with(PLAIN).chat()
    with pytest.raises(nbkv.BadOption, match="this tokenizer has none"):
        session_with(None).chat(template_kwargs={"deep": True})

    assert chat.send("w1", max_new_tokens=1).prompt_ids[-1] == W["w6"]
    assert other.send("w1", template_kwargs={"deep": 1}, max_new_tokens=1).prompt_ids[-1] == W["w6"]
    assert other.send("w1", max_new_tokens=1).prompt_ids[-1] == W["w7"]


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
