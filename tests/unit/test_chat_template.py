from __future__ import annotations

import pytest

from nbkv.errors import BadOption, BadPrompt
from nbkv.prompts.chat_template import ChatTemplate, TemplateOptions, template_options, written_words

ADDED = ("<tool_call>", "</think>", "<think>", "\n\n", "<table>", "user", "<s>", "</s>")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ '<tool_call>\\n' + message.content }}", {"<tool_call>"}),
        ("user<think>\n\n{{ x }}", {"<think>"}),  # neither its line breaks nor its plain words
        ("{% if '<think>' in x %}{{ x.split('</think>')[-1] }}{% endif %}", set()),  # it only reads them
        ("{% generation %}<think>{% endgeneration %}{% for x in y %}{% break %}{% endfor %}", {"<think>"}),
        ("{# <table> #}{% set end = '</s>' %}{{ end }}", {"</s>"}),
        ("{% broken <tool_call>", {"<tool_call>"}),
    ],
)
def test_only_what_a_template_writes_by_itself_is_control(source, words):
    assert written_words([source], ADDED) == words


BOTH = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "strings", "lists"),
    [
        ("{% for m in messages %}{{ m.content + '!' }}{% endfor %}", True, False),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", True, False),  # a list would be written as Python has it
        ("{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", False, True),
        (BOTH, True, True),
        ("{{ raise_exception('never') }}", False, False),
    ],
)
def test_the_forms_of_contents_that_a_template_reads(make_tokenizer, source, strings, lists):
    template = ChatTemplate(make_tokenizer(template=source), source, frozenset())

    assert (template.strings, template.lists) == (strings, lists)


@pytest.mark.parametrize("given", [5, ["enable_thinking"], "enable_thinking", {1: 2}, {"tokenize": True}])
def test_template_kwargs_are_a_dict_of_the_templates_own_names(given):
    with pytest.raises(BadOption, match="template_kwargs"):
        template_options(given, continue_final_message=False)


@pytest.mark.parametrize("given", [None, "yes", 1])
def test_going_on_is_said_by_a_bool(given):
    with pytest.raises(BadOption, match="continue_final_message"):
        template_options({}, given)


def test_template_kwargs_are_copied():
    given = {"enable_thinking": True}
    options = template_options(given, continue_final_message=True)
    given.clear()

    assert options == TemplateOptions({"enable_thinking": True}, continue_final=True)


def test_a_template_that_refuses_says_why_in_one_line(make_tokenizer):
    source = "{{ raise_exception('only user\nand assistant') }}"
    template = ChatTemplate(make_tokenizer(template=source), source, frozenset())

    with pytest.raises(BadPrompt, match=r"only user$"):
        template.render([{"role": "system", "content": "w1"}], TemplateOptions())
