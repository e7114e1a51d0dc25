"""The notebooks on chunk reuse, small: what they record holds, and every figure reaches the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from nbconvert import HTMLExporter

from nbkv.registry import strategies
from nbkv.sweep import run

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SMALL = {"n": 2, "chunks": 3, "lines": 3}


@pytest.fixture(scope="module")
def reuse(tmp_path_factory):
    chosen = {"strategies": ["epic", "passage", "cachecraft"], "budgets": [0.3, 1.0], "sinks": ["bos", "primer"]}
    return run(NOTEBOOKS / "10_chunk_reuse.ipynb", SMALL | chosen, out_dir=tmp_path_factory.mktemp("reuse"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    chosen = {"ratios": [0.0, 0.3, 1.0], "seeds": [0, 1]}
    return run(NOTEBOOKS / "11_masks.ipynb", SMALL | chosen, out_dir=tmp_path_factory.mktemp("masks"))


def records(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_a_full_budget_is_full_for_every_method(reuse):
    found = records(reuse)
    assert found["whole_same"]
    assert found["whole_kl"] < 1e-6


def test_accuracies_are_shares_for_every_method_and_sink(reuse):
    found = records(reuse)
    assert found["questions"] == 2
    assert found["right"].keys() == {
        f"{name} {sink}" for name in ("cachecraft", "epic", "passage") for sink in ("bos", "primer")
    }
    shares = [found["full"], found["best_right"], *found["right"].values(), *found["naive"].values()]
    assert all(0 <= share <= 1 for share in shares)
    assert found["refused"] == {}


def test_the_report_shows_a_figure_for_each_measure(reuse):
    page = reuse.report.read_text(encoding="utf-8")
    titles = ("Right answers", "Distance to full, in nats", "Computed, choosing included", "Time to first token")
    assert all(title in page for title in titles)
    assert page.count("<figure>") >= len(titles)


def test_masks_differ_in_nothing_but_what_is_seen(masks):
    found = records(masks)
    assert found["questions"] == 4
    assert found["same_rows"]
    assert 0 < found["future_keys"] < 1
    assert found["logit_change"]["0.3"] > 1e-3
    assert max(found["logit_change"][end] for end in ("0", "1")) < 1e-4  # where both see the same
    assert found["kl_bottom_right"]["1"] < 1e-6


def test_what_the_mask_costs_has_an_interval(masks):
    found = records(masks)
    assert all(0 <= found[name] <= 1 for name in ("same_true", "same_bottom_right"))
    for figures, name in (("kl_difference", "kl"), ("same_difference", "same")):
        difference, low, high = found[figures]
        assert low <= difference <= high
        ends = (found[f"{name}_{mask}"] for mask in ("bottom_right", "true"))
        wrong, right = (end["0.3"] if isinstance(end, dict) else end for end in ends)
        assert difference == pytest.approx(wrong - right, abs=1e-9)


def test_outputs_are_pictures_and_sentences(reuse, masks, shown_well):
    for sweep, figures in ((reuse, 4), (masks, 1)):
        shown_well(sweep, figures)


def test_figures_survive_an_export_to_html(reuse):
    page, _ = HTMLExporter().from_filename(str(reuse.runs[0].path))
    assert page.count("data:image/png;base64,") == 5  # four figures, and the picture of a prompt
    assert "plotly.v1+json" not in page


def test_the_other_mask_is_no_strategy_of_the_package():
    assert not any("bottom" in name or "leak" in name for name in strategies.names())


def test_the_page_on_masks_tells_the_committed_figures():
    docs = NOTEBOOKS.parent / "docs"
    table, page = json.loads((docs / "tables" / "masks.json").read_text()), (docs / "masks.md").read_text("utf-8")
    for share, name in (("0", "0 %"), ("0.15", "15 %"), ("0.3", "30 %"), ("1", "100 %")):
        (line,) = re.findall(rf"^\| {name} \|.*$", page, re.MULTILINE)
        assert f"| {table['kl_true'][share]:.3f} | {table['kl_bottom_right'][share]:.3f} |" in line
        assert line.endswith(f"| {table['logit_change'][share]:.3g} |")
    difference, low, high = table["kl_difference"]
    assert f"{difference:.3f} nats farther" in page
    assert f"interval {low:.3f} to {high:.3f}" in page
    assert table["logit_change"]["0.15"] > 1
