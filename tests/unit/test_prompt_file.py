import json

import pytest

import nbkv
from nbkv.errors import BadOption, LoadError
from nbkv.tasks import Item, from_jsonl, prompt_file


@pytest.fixture
def write(tmp_path):
    def made(text):
        path = tmp_path / "prompts.jsonl"
        path.write_text(text if isinstance(text, str) else "\n".join(map(json.dumps, text)), encoding="utf-8")
        return path

    return made


def test_a_line_is_a_prompt(write):
    assert prompt_file(write("Who is she?\n\n  Why?\n")) == ["Who is she?", "  Why?"]


def test_records_are_items_texts_or_messages(write):
    messages = [{"role": "user", "content": "Who?"}]
    records = [{"chunks": ["a", "b"], "question": "c?"}, {"prompt": "d"}, {"prompt": messages}]
    item, *rest = prompt_file(write(records))

    assert isinstance(item, Item)
    assert (item.chunks, item.question, item.answers) == (["a", "b"], "c?", [])
    assert rest == ["d", messages]


def test_what_from_jsonl_reads_is_the_same_here(write):
    records = [
        {"chunks": ["a"], "question": "b?", "answers": ["c"], "instruction": "d"},
        {"context": "One. Two.", "input": "e?", "answers": ["f"]},
    ]
    path = write(records)
    assert sorted(prompt_file(path), key=str) == sorted(from_jsonl(path), key=str)


def test_some_are_drawn_by_a_seed(write):
    path = write("\n".join("abcdefgh"))
    assert prompt_file(path, n=8, seed=1) != prompt_file(path)
    assert prompt_file(path, n=3, seed=1) == prompt_file(path, n=3, seed=1) != prompt_file(path, n=3, seed=2)
    for n in (0, 9, True, 2.0):
        with pytest.raises(BadOption, match=r"n=.* holds 8 prompts"):
            prompt_file(path, n=n)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"prompt": ""}', "line 1: 'prompt' is ''"),
        ('{"prompt": "a"}\n{"prompt": 3}', "line 2: 'prompt' is 3"),
        ('{"chunks": ["a"]}', "line 1: has no 'question'"),
        ('{"text": "a"}', "line 1: its keys are text"),
        ('{"prompt": ', "no JSON"),
        ("\n \n", "holds no prompts"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(write, text, wrong):
    with pytest.raises(LoadError, match=wrong) as refused:
        prompt_file(write(text))
    assert "accepted: JSON lines with chunks" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(nbkv.LoadError, match="no file"):
        prompt_file(tmp_path / "none.txt")
