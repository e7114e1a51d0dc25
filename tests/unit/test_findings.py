"""What a report begins with: names people read, the figure that moves, its plot with intervals, one sentence, files."""

from __future__ import annotations

import itertools
import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from nbkv.sweep import report
from nbkv.sweep.machine import machine
from nbkv.sweep.page import downloads
from nbkv.sweep.page.findings import chart, flat, headline, run_names, said
from nbkv.sweep.records import MIME


@pytest.fixture
def folder(tmp_path):
    """Write executed notebooks, each with its parameters, records and last sentence; return their folder's report."""

    def make(*runs, notebook="study.ipynb"):
        for number, (parameters, records, told) in enumerate(runs):
            end = new_code_cell("x", outputs=[new_output("execute_result", {"text/markdown": f"**{told}**"})])
            end.metadata["tags"] = ["conclusion"]
            kept = new_code_cell("y", outputs=[new_output("display_data", {MIME: [*records.items()]})])
            made = new_notebook(cells=[kept, *([end] if told else [])])
            made.metadata["nbkv"] = {
                "notebook": notebook,
                "parameters": [*parameters.items()],
                "started": f"2026-01-01T{number:04d}",
                "duration_s": 75.0,
                "error": "",
                "machine": {"processor": "a processor, 8 cores", "torch": "2.13"},
            }
            nbformat.write(made, tmp_path / f"study-{number:08x}.ipynb")
        return report(tmp_path)

    return make


def grid(strategies=("epic", "prophet"), budgets=(0.1, 0.2, 0.3), seeds=(0, 1)):
    for strategy, budget, seed in itertools.product(strategies, budgets, seeds):
        right = len(strategy) / 20 + budget + seed / 100
        yield {"strategy": strategy, "budget": budget, "seed": seed, "n": 4}, {"right": right, "of": {"a": 1}}, ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"select": 0.12345, "rows": 2}, "select 0.1235, rows 2"),
        ([0.1, [1, "a"]], "0.1, 1, a"),
        (True, "yes"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_values_are_read_without_brackets(value, words):
    assert said(value) == words


def test_nested_figures_get_names_of_their_own():
    assert flat({"kl": {"h2o": 1, "tova": {"last": 2}}, "n": 3}) == {"kl h2o": 1, "kl tova last": 2, "n": 3}


def test_runs_are_called_by_what_tells_them_apart(folder):
    names = run_names(folder(*grid()).runs)
    assert names[0] == "strategy epic, budget 0.1, seed 0"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
def test_a_grid_is_one_plot_with_intervals_over_its_repeats(folder, seeds):
    runs = folder(*grid(seeds=seeds)).runs
    drawn = chart(runs)
    lines = {trace.name: trace for trace in drawn.figure.data if trace.name}
    assert lines.keys() == {"epic", "prophet"}
    assert [*lines["epic"].x] == [0.1, 0.2, 0.3]
    assert lines["epic"].y[0] == pytest.approx(0.2 + 0.1 + sum(seeds) / len(seeds) / 100)
    assert sum(trace.fill == "toself" for trace in drawn.figure.data) == (2 if len(seeds) > 1 else 0)


def test_many_settings_are_the_six_highest(folder):
    runs = folder(*grid(strategies=[f"{'s' * n}" for n in range(1, 10)])).runs
    names = {trace.name for trace in chart(runs).figure.data if trace.name}
    assert names == {"s" * n for n in range(4, 10)}


def test_settings_without_numbers_are_bars(folder):
    settings = enumerate(("epic", "prophet", "h2o"))
    runs = folder(*[({"strategy": name}, {"right": n / 10}, "") for n, name in settings]).runs
    assert [*chart(runs).figure.data[0].x] == [0.2, 0.1, 0.0]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([({"n": 1}, {"right": 0.5}, "It is half.")], "It is half."),
        (
            [*grid(seeds=(0,))],
            "right goes from 0.3 (strategy epic, budget 0.1) to 0.65 (strategy prophet, budget 0.3).",
        ),
        (
            [({"n": 1}, {"r": 1}, ""), ({"n": 2}, {"r": 1}, "")],
            "2 of 2 runs reached the end; no recorded figure differs",
        ),
    ],
)
def test_the_headline_says_what_was_found(folder, runs, words):
    sweep = folder(*runs)
    notebooks = [nbformat.read(run.path, as_version=4) for run in sweep.runs]
    assert headline(sweep.runs, notebooks).startswith(words)
    page = sweep.report.read_text(encoding="utf-8")
    assert re.search(rf'<p class="found">{re.escape(words)}', page)
    assert page.index('class="found"') < page.index("<table>")


def test_the_page_has_no_dicts_and_no_hashed_names_to_read(folder):
    page = folder(*grid()).report.read_text(encoding="utf-8")
    seen = re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
    assert "{" not in seen
    assert not re.search(r"study-[0-9a-f]{8}", seen)
    assert "strategy prophet, budget 0.3, seed 1" in seen
    assert "a processor, 8 cores" in seen
    assert "15 min 0 s in notebooks" in seen


@pytest.mark.parametrize("library", [None, "pyarrow"])
def test_files_lie_beside_the_page_or_are_said_to_be_missing(folder, tmp_path, monkeypatch, library):
    written = []
    monkeypatch.setattr(downloads, "find_spec", lambda name: name if name == library else None)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda frame, path, **_: written.append((frame, path.name)))
    page = folder(*grid()).report.read_text(encoding="utf-8")
    for name in ("results.csv", "columns.csv", "table.tex", "table.md", "figure.png"):
        assert (tmp_path / name).stat().st_size > 50
        assert f'download href="{name}"' in page
    assert len(pd.read_csv(tmp_path / "results.csv")) == 12
    assert pd.read_csv(tmp_path / "columns.csv").set_index("column")["unit"]["duration_s"] == "s"
    assert (tmp_path / "table.md").read_text().splitlines()[0] == "| run | right |"
    assert "\\toprule" in (tmp_path / "table.tex").read_text()
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width > 400
    if library:
        ((frame, name),) = written
        assert (name, [*frame["of a"]]) == ("results.parquet", [1] * 12)
        assert {name: str(frame[name].dtype) for name in ("n", "right")} == {"n": "Int64", "right": "float64"}
        assert frame.attrs == {"units": {"duration_s": "s"}}
        assert 'href="results.parquet"' in page
    else:
        assert not written
        assert "Parquet: pip install pyarrow" in page


def test_the_machine_is_told_without_loading_torch():
    told = machine()
    assert re.search(r", \d+ cores$", told["processor"])
    assert re.fullmatch(r"\d+ GB", told["memory"])
    assert told.keys() >= {"Python", "nbkv", "torch", "transformers", "system"}
    assert all(isinstance(value, str) and value for value in told.values())
