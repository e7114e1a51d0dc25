from __future__ import annotations

import json

import pytest

from nbkv.errors import LoadError
from nbkv.tasks import musique


def question(hops, **changes):
    paragraphs = [{"idx": i, "title": f"Title {i}", "paragraph_text": f"All of {i}.", "is_supporting": i < hops}
                  for i in range(7)]  # fmt: skip
    steps = [{"id": i, "question": "?", "answer": "!", "paragraph_support_idx": hops - 1 - i} for i in range(hops)]
    given = {
        "id": f"{hops}hop1__{hops}_1",
        "question": " Where? ",
        "answer": "Here",
        "answer_aliases": ["here", "Here"],
    }
    return given | {"paragraphs": paragraphs, "question_decomposition": steps, "answerable": True} | changes


def written(path, *questions):
    path.write_text("\n".join(map(json.dumps, questions)) + "\n")
    return path


def test_hops_are_supported_by_paragraphs_in_their_order(tmp_path):
    path = written(tmp_path / "musique.jsonl", question(2), question(3), question(4))
    items = musique(path, chunks=5)
    assert {item.kind for item in items} == {"2hop", "3hop", "4hop"}
    for item in items:
        hops = int(item.kind[0])
        assert item.question == "Where?"
        assert item.answers == ["Here", "here"]
        assert len(item.chunks) == 5
        assert [item.chunks[at] for at in item.hops] == [f"Title {i}\nAll of {i}.\n\n" for i in reversed(range(hops))]
        (place,) = item.oracle[0].asked
        assert item.chunks[place.chunk][: place.stop] == item.chunks[place.chunk].rstrip()
    assert [item.kind for item in musique(path, chunks=3, kinds=["2hop"])] == ["2hop"]


def test_paragraphs_are_found_by_their_number_not_their_place(tmp_path):
    given = question(2)
    path = written(tmp_path / "shuffled.jsonl", given | {"paragraphs": given["paragraphs"][::-1]})
    (item,) = musique(path)
    assert [item.chunks[at][:7] for at in item.hops] == ["Title 1", "Title 0"]


BAD = {
    "not answerable": {"answerable": False},
    "supported by paragraph 9": {"question_decomposition": [{"paragraph_support_idx": 9}]},
    "no 'question_decomposition'": {"question_decomposition": None},
    "'paragraphs' holds": {"paragraphs": [{"idx": 0}]},
    "'question' is 3": {"question": 3},
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_record_is_named_by_its_line(tmp_path, wrong):
    path = written(tmp_path / "bad.jsonl", question(2), question(2, **BAD[wrong]))
    with pytest.raises(LoadError, match=wrong) as error:
        musique(path)
    assert f"{path}, line 2: " in str(error.value)
    assert "accepted: MuSiQue" in str(error.value)
