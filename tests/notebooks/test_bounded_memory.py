"""The notebook on bounded memory, small: exact where it says so, never above `keep`, every figure in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.strategy import parse
from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "40_bounded_memory.ipynb"
SMALL = {"turns": 6, "chunks": 2, "lines": 4, "conversations": 1, "keep": 0.3}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("bounded"))


def records(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_what_is_exact_says_what_full_says(told):
    found = records(told)
    assert found["turns"] == 6
    assert found["match"]["prefix"] == found["match"]["full"] == 1.0
    assert found["kl"]["prefix"] < 1e-6


def test_eviction_holds_no_more_than_it_may_and_loses_something(told):
    found = records(told)
    dropping = {name for name in found["match"] if name not in {"full", "prefix"} and not name.startswith("residual")}
    assert dropping >= {"h2o", "snapkv", "tova", "streaming", "window"}
    # a whole token more at most: a share is rounded up
    assert all(found["held"][name] <= SMALL["keep"] + 0.02 for name in dropping)
    assert all(found["held"][name] <= found["peak"][name] for name in dropping)
    assert all(found["kl"][name] > 1e-3 for name in dropping)
    assert all(0 <= found["match"][name] <= 1 for name in dropping)
    assert found["refused"] == {}


def test_residual_says_what_full_says_in_the_memory_its_form_takes(told):
    found, keep = records(told), SMALL["keep"]
    forms = {parse(name).form: name for name in found["match"] if name.startswith("residual")}
    exact = {"ids", "first(4)", "every(2)", "layers", "host"}
    assert forms.keys() == exact | {"int8", "int4", "latent(64, 8)"}
    for form in exact:
        assert found["match"][forms[form]] == 1.0
        assert found["kl"][forms[form]] < 1e-6
    assert found["kl"][forms["int8"]] < found["kl"][forms["int4"]]
    assert found["held"][forms["ids"]] <= keep + 0.01
    assert found["peak"][forms["ids"]] <= keep + 1 / 8 + 0.06  # of a short conversation a block is a larger part
    assert found["peak"][forms["ids"]] < found["peak"][forms["layers"]] < found["peak"][forms["host"]]


def test_the_report_shows_memory_loss_and_time(told):
    page = told.report.read_text(encoding="utf-8")
    titles = ("held after each turn", "Distance to full by turn", "Time of a token of the answer")
    assert all(title in page for title in titles)
    assert page.count("<figure>") >= 6


def test_outputs_are_pictures_and_a_sentence(told, shown_well):
    shown_well(told, 6)
