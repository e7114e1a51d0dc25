"""What a report begins with: names people read, the figure that moves, its plot with intervals, one sentence, files."""

from __future__ import annotations

import itertools
import re
from html import escape

import nbformat
import pandas as pd
import pytest
from PIL import Image

from nbkv.sweep.machine import machine
from nbkv.sweep.page import downloads
from nbkv.sweep.page.findings import headline, run_names


def grid(strategies=("epic", "prophet"), budgets=(0.1, 0.2, 0.3), seeds=(0, 1)):
    for strategy, budget, seed in itertools.product(strategies, budgets, seeds):
        right = len(strategy) / 20 + budget + seed / 100
        yield {"strategy": strategy, "budget": budget, "seed": seed, "n": 4}, {"right": right, "of": {"a": 1}}, ""


def test_runs_are_called_by_what_tells_them_apart(folder):
    names = run_names(folder(*grid()).runs)
    assert names[0] == "strategy epic, budget 0.1, seed 0"
    assert len(set(names)) == len(names)


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
        (
            [({"n": 1, "seed": at}, {"kv_bytes": 5_812_345_678 * (at + 1)}, "") for at in (0, 1)],
            "kv_bytes goes from",
        ),
        (
            [({"n": n, "seed": at}, {"hit_rate": 0.81234 + n / 100}, "") for n in (1, 2) for at in (0, 1)],
            "hit_rate goes from 82 % (n 1) to 83 % (n 2), means over seed.",
        ),
        (
            [({"n": 1}, {}, "", "KeyError: 'a'"), ({"n": 2}, {}, "", "KeyError: 'a'")],
            "No run reached its end. KeyError",
        ),
        ([({"n": 1}, {}, "", "a"), ({"n": 2}, {}, "", "b")], "No run reached its end. The first one: a"),
    ],
)
def test_the_headline_says_what_was_found(folder, runs, words):
    sweep = folder(*runs)
    notebooks = [nbformat.read(run.path, as_version=4) for run in sweep.runs]
    assert headline(sweep.runs, notebooks, sweep.units).startswith(words)
    page = sweep.report.read_text(encoding="utf-8")
    assert re.search(rf'<p class="found">{re.escape(escape(words))}', page)
    assert page.index('class="found"') < page.index("<table ")


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
    sweep = folder(*grid())
    page = sweep.report.read_text(encoding="utf-8")
    for name in ("results.csv", "columns.csv", "table.tex", "table.md", "figure.png"):
        assert (tmp_path / name).stat().st_size > 50
        assert f'download href="{name}"' in page
    assert len(pd.read_csv(tmp_path / "results.csv")) == 12
    assert pd.read_csv(tmp_path / "columns.csv").set_index("column")["unit"]["duration_s"] == "s"
    assert (tmp_path / "table.md").read_text().splitlines()[0] == "| run | right |"
    assert (tmp_path / "table.md").read_text() == downloads.markdown(
        downloads.paper_table(sweep, run_names(sweep.runs))
    )
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
