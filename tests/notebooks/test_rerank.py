"""The notebook on re-ranking, small: what it records holds, and its figures reach the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "53_rerank.ipynb"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run(NOTEBOOK, {"questions": 8, "reused": ["epic(budget=0.15)"]}, out_dir=tmp_path_factory.mktemp("rerank"))


@pytest.fixture(scope="module")
def records(told):
    assert not told.failed, told.failed[0].error
    return told.runs[0].records


def test_attention_finds_more_than_chance_and_the_calibration_makes_it_so(records):
    assert records["questions"] == 8
    assert records["recall"]["ICR"] > records["recall"]["chance"] + 0.2
    assert records["recall"]["ICR"] > records["recall"]["without N/A"] + 0.2


def test_recall_does_not_fall_with_depth(records):
    assert all(records["recall_at_two"][way] >= value for way, value in records["recall"].items())
    assert records["same_first"]["ICR"] == 1


def test_a_later_question_is_short_and_the_answer_goes_on(records):
    assert records["later_share"] < 0.2
    assert records["reused"] > 0.8
    assert records["answer_hit_rate"] > 0.5
    assert records["whole_hit_rate"] > 0.8


def test_the_notebook_is_shown_well(told, shown_well):
    shown_well(told, figures=2)
