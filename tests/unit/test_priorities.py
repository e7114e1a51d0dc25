"""Which tokens of a chat a full store gives up last and first, for templates of several kinds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbkv.context import Request
from nbkv.families.prefix.priorities import SYSTEM, THINKING, priorities
from nbkv.prompts.prompt import build
from nbkv.prompts.tokenizer import Codec

EACH = "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}"
TWICE = "{% for m in messages %}w1 {{ m.content }} w2 {{ m.content }} {% endfor %}"
ONLY_LONG = "{% if messages|length < 3 %}{{ raise_exception('too short') }}{% endif %}" + EACH
SAID = [{"role": "system", "content": "w7 w8 w9"}, {"role": "user", "content": "w20 w21"}]


@pytest.fixture
def found(make_tokenizer):
    """Return what ``priorities`` finds for messages under a template, and an answer of pieces of text."""

    def find(template, messages, pieces=("w3",)):
        codec = Codec(make_tokenizer(template=template))
        prompt = build(codec, messages, "model", frozenset())
        ctx = SimpleNamespace(codec=codec, pieces=lambda ids: pieces[: len(ids)])
        return prompt, priorities((*prompt.ids, *range(len(pieces))), Request(prompt, 1), ctx)

    return find


def codec_ids(found, text):
    """Return the ids of ``text`` as a template of nothing else has them."""
    whole = found("{{ messages[0].content }}", [{"role": "user", "content": text}])[0].ids
    return whole[-len(text.split()) :]


@pytest.mark.parametrize("template", [EACH, TWICE])
def test_the_system_text_reaches_up_to_the_first_words_of_the_user(found, template):
    prompt, ((start, stop, priority),) = found(template, SAID)

    assert (start, priority) == (0, SYSTEM)
    user = codec_ids(found, "w20 w21")
    assert prompt.ids[stop : stop + 2] == user
    assert not set(user) & set(prompt.ids[:stop])


def test_a_template_that_refuses_so_short_a_chat_gives_it_no_priority(found):
    more = [*SAID, {"role": "assistant", "content": "w4"}, {"role": "user", "content": "w5"}]
    assert found(ONLY_LONG, more)[1] == ()


@pytest.mark.parametrize("pieces", [("so", "</think>", "yes"), ("x", "</thi", "nk>y"), ("[THINK]", "a", "[/THINK]")])
def test_an_answer_with_thinking_goes_first_all_of_it(found, pieces):
    prompt, (one,) = found(EACH, SAID[1:], pieces)
    assert one == (len(prompt.ids), len(prompt.ids) + len(pieces), THINKING)


def test_all_else_has_no_priority(found):
    assert found(EACH, SAID[1:])[1] == ()
    assert found(EACH, SAID[1:], ("<think>", "cut", "off"))[1] == ()
