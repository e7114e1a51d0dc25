"""A conversation keeps what was said, whatever a caller does to what it handed over or the template to its turns."""

from __future__ import annotations

from itertools import pairwise

import pytest

import nbkv

PLAIN = (
    "{% if deep is defined %} w6{% endif %}{% for m in messages %} w9 {{ m.content }} w8{% endfor %}"
    "{% if add_generation_prompt %} w9{% endif %}"
)
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

    for before, after in pairwise(results):
        said = before.token_ids
        assert any(after.prompt_ids[at : at + 3] == said for at in range(len(after.prompt_ids)))
    if template in {None, PLAIN}:
        assert results[-1].prompt_ids[: len(results[0].prompt_ids)] == results[0].prompt_ids
    noted = any("leaves" in note for note in results[-1].notes)
    assert noted == (template == SHORT)


CHANGES = {"clear": list.clear, "append": lambda given: given.append("w5"), "swap": lambda given: given.reverse()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
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
    chat = session_with(template).chat()
    first = chat.send("w3", prefill=prefill, max_new_tokens=2)
    second = chat.send("w2", max_new_tokens=2)
    ids = [W[word] for word in prefill.split()]

    assert list(first.prompt_ids[-len(ids) :]) == ids
    assert second.prompt_ids[: len(first.prompt_ids) + 2] == first.prompt_ids + first.token_ids


@pytest.mark.parametrize("template", [None, PLAIN])
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

    assert chat.send("w1", max_new_tokens=1).prompt_ids == (12, 4, 11, 12)


def test_variables_of_the_template_are_the_chats_or_the_turns(session_with):
    chat = session_with(PLAIN).chat(template_kwargs={"deep": True})
    other = session_with(PLAIN).chat()
    with pytest.raises(nbkv.BadOption, match="this tokenizer has none"):
        session_with(None).chat(template_kwargs={"deep": True})

    assert chat.send("w1", max_new_tokens=1).prompt_ids[0] == W["w6"]
    assert other.send("w1", template_kwargs={"deep": 1}, max_new_tokens=1).prompt_ids[0] == W["w6"]
    assert other.send("w1", max_new_tokens=1).prompt_ids[0] == W["w9"]
