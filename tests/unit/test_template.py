import numpy as np
import pytest

from nbkv.errors import BadOption, BadPrompt
from nbkv.magics.template import fill, prompt_of, spelled, template_kwargs
from nbkv.result import Chunk, Compute, Result, Timing


def chunk(name, text="text"):
    return Chunk(name=name, text=text, token_ids=(1, 2), sink=(0,), model="m")


NOTES = chunk("notes")
ANSWER = Result(
    text="four", token_ids=(4,), prompt_ids=(1,), finish_reason="stop", strategy="full", model="m", fingerprint="m",
    timing=Timing(), provenance=np.zeros(1, np.uint8), kept=np.ones(1, bool), compute=Compute(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "variables", "parts"),
    [
        ("plain", {}, ["plain"]),
        ("one newline\n", {}, ["one newline"]),
        ("two\n\n", {}, ["two\n"]),
        ("  spaces stay  \n", {}, ["  spaces stay  "]),
        ("a {{ x }} b", {"x": "X"}, ["a X b"]),
        ("a {{x}} b", {"x": "X"}, ["a X b"]),
        ("{{ x }}{{ x }}", {"x": "X"}, ["XX"]),
        ("{{ x }}", {"x": "{{ y }}", "y": "never"}, ["{{ y }}"]),
        ("{{ n }} and {{ f }}", {"n": 3, "f": 0.5}, ["3 and 0.5"]),
        ("a {{ c }} b", {"c": NOTES}, ["a ", NOTES, " b"]),
        ("{{ c }}{{ c }}", {"c": NOTES}, [NOTES, NOTES]),
        ("{{ xs }}!", {"xs": ["a", 1, NOTES, ("b")]}, ["a1", NOTES, "b!"]),
        ("{{ xs }}", {"xs": (NOTES, NOTES)}, [NOTES, NOTES]),
        (r"\{{ x }}", {"x": "X"}, ["{{ x }}"]),
        (r"\{{ 1 + 2 }} {{ x }}", {"x": "X"}, ["{{ 1 + 2 }} X"]),
        ('{"a": {"b": 1}}', {}, ['{"a": {"b": 1}}']),
        ("{{ 1 + 2 }} {{}} { x } {{ a.b }} {{ a b }}", {}, ["{{ 1 + 2 }} {{}} { x } {{ a.b }} {{ a b }}"]),
        ("{{{ x }}}", {"x": "X"}, ["{X}"]),
        ("${x} {x} %s {0}", {"x": "X"}, ["${x} {x} %s {0}"]),
        ("{{ größe }}", {"größe": "XL"}, ["XL"]),
        ("{{ x }}\n", {"x": "X\n"}, ["X\n"]),
        ("{{ empty }}", {"empty": ""}, []),
    ],
)
def test_what_a_cell_stands_for(text, variables, parts):
    assert fill(text, variables, {}) == parts


def test_a_result_gives_its_answer_chunk():
    (part,) = fill("{{ last }}", {"last": ANSWER}, {})
    assert part == ANSWER.chunk("answer")
    assert part.token_ids == (4,)


def test_chunks_of_the_session_are_known_by_name():
    assert fill("{{ notes }}?", {}, {"notes": NOTES}) == [NOTES, "?"]


def test_the_same_chunk_as_variable_and_in_the_session_is_no_conflict():
    assert fill("{{ notes }}", {"notes": chunk("notes")}, {"notes": NOTES}) == [NOTES]


@pytest.mark.parametrize("value", ["text", 3, chunk("notes", "other"), [NOTES], None])
def test_a_name_with_two_meanings_is_refused(value):
    with pytest.raises(BadPrompt, match=r"both a variable .* and a different chunk"):
        fill("{{ notes }}", {"notes": value}, {"notes": NOTES})


def test_an_unknown_name_lists_what_is_known():
    with pytest.raises(BadPrompt) as caught:
        fill("{{ contrct }}", {"question": "why", "np": np, "_hidden": "x"}, {"contract": NOTES})
    assert str(caught.value) == (
        "unknown name {{ contrct }}, did you mean 'contract'? (known: contract, question)"
    )  # fmt: skip
    with pytest.raises(BadPrompt, match="nothing yet"):
        fill("{{ x }}", {}, {})


@pytest.mark.parametrize("value", [None, {"a": 1}, {1}, np.zeros(2), b"bytes", len])
def test_other_values_are_refused_by_type(value):
    for variables in ({"x": value}, {"x": ["fine", value]}):
        with pytest.raises(BadPrompt, match=r"\{\{ x \}\} is (an? )?\w+ \(accepted: str, int"):
            fill("{{ x }}", variables, {})


def test_lists_in_lists_are_refused():
    with pytest.raises(BadPrompt, match="an item of"):
        fill("{{ x }}", {"x": [["a"]]}, {})


@pytest.mark.parametrize(
    ("parts", "chat", "prompt"),
    [
        (["hi"], False, "hi"),
        (["hi"], True, [{"role": "user", "content": "hi"}]),
        ([NOTES], False, [NOTES]),
        ([NOTES, "hi"], True, [{"role": "user", "content": [NOTES, "hi"]}]),
    ],
)
def test_the_form_of_the_prompt(parts, chat, prompt):
    assert prompt_of(parts, chat=chat) == prompt


@pytest.mark.parametrize("parts", [[], ["  \n"]])
def test_an_empty_cell_is_refused(parts):
    with pytest.raises(BadPrompt, match="no prompt"):
        prompt_of(parts, chat=True)


@pytest.mark.parametrize("name", ["हिंदी", "ภาษาไทยที่", "தமிழ்", "ﬁx", "été"])
def test_names_are_what_python_takes_for_names(name):
    assert name.isidentifier()
    for known in (name, spelled(name)):
        assert fill(f"a {{{{ {name} }}}} b", {spelled(name): "X"}, {}) == ["a X b"]
        assert fill(f"{{{{{known}}}}}", {}, {known: NOTES}) == [NOTES]


@pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), np.float64(0.5)], ids=repr)
def test_numbers_of_numpy_are_numbers(value):
    assert fill("{{ x }}", {"x": value}, {}) == [str(value.item())]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["enable_thinking=False", "depth=3"], {"enable_thinking": False, "depth": 3}),
        (["enable_thinking=false", "x=null"], {"enable_thinking": False, "x": None}),
        (["tools=TOOLS"], {"tools": [len]}),
        (["date=26 Jul", "names=['a', 'b']"], {"date": "26 Jul", "names": ["a", "b"]}),
        (["a=b=c"], {"a": "b=c"}),
    ],
    ids=str,
)
def test_words_give_the_chat_template_what_it_knows_by_name(words, found):
    assert template_kwargs(words, {"TOOLS": [len]}) == found


@pytest.mark.parametrize("word", ["enable_thinking", "=3", "a b=3"])
def test_a_word_without_a_name_is_refused(word):
    with pytest.raises(BadOption, match="NAME=VALUE"):
        template_kwargs([word], {})
