"""The table of docs/masks.md is what the notebook records, and is not written where that fails."""

import importlib.util
import json
from pathlib import Path

import pytest

from nbkv.sweep import Run

_spec = importlib.util.spec_from_file_location("masks_table", Path(__file__).with_name("masks_table.py"))
masks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(masks)


def test_the_table_has_what_was_asked_and_recorded(tmp_path):
    given = {"model": "some/folder/smollm2", "data": "/data/hotpotqa_train.json", "chunks": 5, "n": 24, "sink": "auto"}
    given |= {"strategy": "cacheblend", "longest": 16}
    run = Run(
        path=tmp_path / "x.ipynb", notebook="11_masks.ipynb", parameters=given, records={"questions": 24, "kl": [1]}
    )
    assert masks.tabled(run) == {
        "model": "smollm2",
        "data": "hotpotqa_train.json",
        "paragraphs": 5,
        "sink": "auto",
        "strategy": "cacheblend",
        "tokens": 16,
        "questions": 24,
        "kl": [1],
    }


def test_the_committed_table_has_these_names():
    kept = json.loads(masks.TABLE.read_text(encoding="utf-8"))
    assert {"model", "data", "paragraphs", "sink", "strategy", "tokens", "questions", "kl_true", "share"} <= kept.keys()
    assert kept["paragraphs"] == masks.ASKED["chunks"]
    assert kept["questions"] == masks.ASKED["n"]


@pytest.mark.parametrize("broken", ["no such file", "no questions"])
def test_a_notebook_that_fails_writes_no_table(tmp_path, broken):
    data = tmp_path / "questions.json"
    if broken == "no questions":
        data.write_text("[]")
    with pytest.raises(RuntimeError, match=r"11_masks\.ipynb failed: "):
        masks.main(str(data), "tiny", str(tmp_path / "out"), tmp_path / "masks.json", n=1)
    assert not (tmp_path / "masks.json").exists()
