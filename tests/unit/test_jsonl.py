from __future__ import annotations

import json

import pytest

import nbkv
from nbkv.errors import BadOption, LoadError
from nbkv.tasks import evaluate, from_jsonl
from nbkv.tasks.files.jsonl import pieces


@pytest.fixture
def write(tmp_path):
    def made(*records, folder="task"):
        path = tmp_path / folder / "validation.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        return path

    return made


def test_plain_records_are_taken_as_they_are(write):
    first = {"chunks": ["A b. ", "C d. "], "question": "What?", "answers": ["b", "d"], "kind": "mine", "id": 7}
    path = write(first, {"chunks": ["x"], "question": "Who?", "answer": "y", "instruction": ""})
    items = {item.question: item for item in from_jsonl(path)}
    item = items["What?"]
    assert (item.chunks, item.answers, item.kind, item.name) == (first["chunks"], ["b", "d"], "mine", "7")
    assert item.metrics == ("em", "f1", "rouge_l")
    assert items["Who?"].instruction == ""
    assert from_jsonl(path, n=1, metrics=["f1"])[0].metrics == ("f1",)
    with pytest.raises(BadOption, match="rouge_l"):
        from_jsonl(path, metrics=["rouge"])


def test_longbench_is_cut_at_its_passages(write):
    context = "".join(f"Passage {i}:\nText of {i}. More of it.\n" for i in range(1, 11))
    given = {"context": context, "input": "Who?", "answers": ["Anna", "Ann"], "dataset": "hotpotqa", "_id": "z"}
    summed = given | {"input": "", "dataset": "gov_report"}
    qa, summary = sorted(from_jsonl(write(given, summed), chunks=5), key=lambda item: item.kind, reverse=True)
    assert "".join(qa.chunks) == context
    assert len(qa.chunks) == 5
    assert all(chunk.startswith("Passage ") for chunk in qa.chunks)
    assert (qa.kind, qa.answers, qa.metrics[1]) == ("hotpotqa", ["Anna", "Ann"], "f1")
    assert (summary.metrics, summary.question) == (("rouge_l",), "Summarize the text above.")


def test_rulers_input_is_an_instruction_a_text_and_a_question(write):
    text = "\n".join(f"The grass is green. One of the special magic numbers for k{i} is: {i}." for i in range(40))
    asked = "What are all the special magic numbers for k3 mentioned in the provided text?"
    given = {"index": 0, "input": f"A special magic number is hidden.\n{text}\n{asked}", "outputs": ["3"]}
    (item,) = from_jsonl(write(given, folder="niah_single_1"), chunks=4)
    assert item.instruction == "A special magic number is hidden.\n"
    assert "".join(item.chunks) == text + "\n"
    assert len(item.chunks) == 4
    assert (item.question, item.kind, item.metrics) == (asked, "niah_single_1", ("match_all",))
    (item,) = from_jsonl(write(given | {"answer_prefix": " They are"}, folder="qa_1"))
    assert item.question.endswith("text? They are")
    assert item.metrics == ("match_any",)


@pytest.mark.parametrize(
    "text", ["a b c d e f g h", "One. Two! Three? Four. Five. " * 3, "x", "lines\nof\ntext\n" * 20, "Passage 1: a"]
)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_pieces_joined_are_the_text(text, count):
    cut = pieces(text, count)
    assert "".join(cut) == text
    assert 1 <= len(cut) <= count
    assert all(cut)


BAD = [
    ("its keys are text", {"text": "x"}),
    ("'chunks' is", {"chunks": "", "question": "q", "answers": ["a"]}),
    ("no 'question'", {"chunks": ["x"], "answers": ["a"]}),
    ("no 'answer'", {"chunks": ["x"], "question": "q"}),
    ("no 'input'", {"context": "x", "answers": ["a"]}),
    ("not an instruction", {"input": "one line", "outputs": ["a"]}),
    ("a list, not an object", [1]),
]


@pytest.mark.parametrize(("wrong", "record"), BAD)
def test_a_bad_record_is_named_by_its_line(write, wrong, record):
    path = write({"chunks": ["x"], "question": "q", "answers": ["a"]}, record)
    with pytest.raises(LoadError, match=wrong) as error:
        from_jsonl(path)
    assert f"{path}, line 2: " in str(error.value)
    assert "accepted: JSON lines" in str(error.value)


def test_items_of_a_file_are_evaluated(write):
    item = nbkv.tasks.ledger(n=1, chunks=3, lines=4)[0]
    path = write({"chunks": item.chunks, "question": item.question, "answers": item.answers, "instruction": ""})
    with nbkv.load("tiny") as session:
        frame = evaluate(session, from_jsonl(path), "cacheblend", max_new_tokens=4)
        full = evaluate(session, from_jsonl(path), "full", max_new_tokens=4)
    assert frame.loc[0, "hit_rate"] > 0.5
    assert full.loc[0, ["correct", "em", "f1", "rouge_l"]].tolist() == [1, 1, 1, 1]
