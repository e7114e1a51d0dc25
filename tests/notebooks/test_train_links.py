"""The notebook that trains link tokens, for a few steps."""

from __future__ import annotations

from pathlib import Path

from nbkv.models.link_tokens import read_links
from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "train_links.ipynb"


def test_it_trains_evaluates_and_leaves_a_file(tmp_path):
    out = tmp_path / "links.safetensors"
    parameters = {"steps": 3, "links": 2, "slots": 3, "questions": 4, "threads": 1, "out": str(out)}
    sweep = run(NOTEBOOK, parameters, out_dir=tmp_path / "run")

    assert not sweep.failed, sweep.failed[0].error
    records = sweep.runs[0].records
    assert records["steps"] == 3
    assert records["carried_full"] >= 0.5
    assert 0 <= records["carried_trained_links"] <= 1
    assert read_links(out).vectors.shape == (3, 2, 128)
