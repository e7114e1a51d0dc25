from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nbkv.errors import BadOption, LoadError
from nbkv.tasks import hotpotqa, musique

DATA = Path(os.environ.get("NBKV_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def question(number, kind="bridge"):
    context = [[f"Title {i}", [f" First of {i}.", f" Second of {i}."]] for i in range(6)]
    facts = [["Title 4", 1], ["Title 2", 0], ["Title 2", 1]]
    given = {"question": f"Who is {number}?", "answer": f"Person {number}", "type": kind, "_id": f"id{number}"}
    return given | {"context": context, "supporting_facts": facts}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "hotpot.json"
    file.write_text(json.dumps([question(0), question(1, "comparison"), question(2)]))
    return file


def supported(item):
    return [[item.chunks[at.chunk][at.start : at.stop] for at in evidence.asked] for evidence in item.oracle]


def test_the_publishers_list_becomes_items(path):
    items = hotpotqa(path)
    assert sorted(item.name for item in items) == ["id0", "id1", "id2"]
    for item in items:
        number = item.name[-1]
        assert (item.question, item.answers) == (f"Who is {number}?", [f"Person {number}"])
        assert item.kind == ("comparison" if number == "1" else "bridge")
        assert sorted(item.chunks) == [f"Title {i}\nFirst of {i}. Second of {i}.\n\n" for i in range(6)]
        assert supported(item) == [["Second of 4."], ["First of 2.", "Second of 2."]]
        assert [item.chunks[at][:7] for at in item.hops] == ["Title 4", "Title 2"]
        assert item.metrics == ("em", "f1", "rouge_l")


def test_chunks_are_the_supporting_ones_and_distractors(path):
    for item in hotpotqa(path, chunks=3):
        assert len(item.chunks) == 3
        assert supported(item) == [["Second of 4."], ["First of 2.", "Second of 2."]]
    assert all(len(item.chunks) == 6 for item in hotpotqa(path, chunks=60))


def test_the_seed_decides_and_fewer_are_the_first_of_more(path):
    assert hotpotqa(path, n=1, chunks=4) == hotpotqa(path, n=3, chunks=4)[:1]
    assert len({repr(hotpotqa(path, chunks=4, seed=seed)) for seed in range(6)}) > 3
    assert [item.name for item in hotpotqa(path, kinds=["comparison"])] == ["id1"]


def test_json_lines_and_the_hubs_form_give_the_same(path, tmp_path):
    lines, hub = tmp_path / "lines.jsonl", tmp_path / "hub.jsonl"
    data = json.loads(path.read_text())
    lines.write_text("\n".join(map(json.dumps, data)) + "\n\n")
    for each in data:
        titles, sentences = zip(*each["context"], strict=True)
        each["context"] = {"title": titles, "sentences": sentences}
        titles, numbers = zip(*each["supporting_facts"], strict=True)
        each["supporting_facts"] = {"title": titles, "sent_id": numbers}
        each["id"] = each.pop("_id")
    hub.write_text("\n".join(map(json.dumps, data)))
    assert hotpotqa(path) == hotpotqa(lines) == hotpotqa(hub)


def test_a_sentence_that_is_not_there_leaves_the_paragraph(tmp_path):
    file = tmp_path / "noise.json"
    file.write_text(json.dumps([question(0) | {"supporting_facts": [["Title 1", 9], ["Title 3", 0]]}]))
    assert supported(hotpotqa(file)[0]) == [["Title 1\nFirst of 1. Second of 1."], ["First of 3."]]


BAD = {
    "answer": {"answer": None},
    "supporting paragraph 'Nowhere'": {"supporting_facts": [["Nowhere", 0]]},
    "'context' holds": {"context": ["text"]},
    "sentences of": {"context": [["Title 2", "text"]]},
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_record_is_named_by_its_line(tmp_path, wrong):
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in (question(0), question(1) | BAD[wrong])))
    with pytest.raises(LoadError, match=wrong) as error:
        hotpotqa(file, n=1)
    assert f"{file}, line 2: " in str(error.value)
    assert "accepted: HotpotQA" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"n": 4}, "3 questions"), ({"n": 0}, "n=0"), ({"chunks": 1}, "needs 2"), ({"chunks": 0}, "chunks=0"),
     ({"kinds": ["2hop"]}, "bridge, comparison")],
)  # fmt: skip
def test_bad_options(path, options, said):
    with pytest.raises(BadOption, match=said):
        hotpotqa(path, **options)


@pytest.mark.parametrize(("task", "file"), [(hotpotqa, "hotpotqa_train.json"), (musique, "musique_train.json")])
def test_real_files(task, file):
    if not (DATA / file).is_file():
        pytest.skip(f"no {file} in $NBKV_DATA, nor in shared/data beside the repository")
    items = task(DATA / file, n=100, chunks=5)
    assert {item.kind for item in items} == {"bridge", "comparison"} if task is hotpotqa else {"2hop", "3hop", "4hop"}
    for item in items:
        assert len(item.hops) == (int(item.kind[0]) if task is musique else 2)
        assert len(item.chunks) in {4, 5}
        assert all(text for hop in supported(item) for text in hop)
