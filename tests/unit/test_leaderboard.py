"""The leaderboard: intervals over seeds, the front, who is held against random rows, and pages made of tables alone."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nbkv
from nbkv.errors import UnknownName
from nbkv.studies.leaderboard import table
from nbkv.studies.leaderboard.committed import committed
from nbkv.studies.leaderboard.contest import COLUMNS, EXACT, contenders, measured
from nbkv.studies.leaderboard.page import between, page, short
from nbkv.studies.leaderboard.picture import drawn, pareto, right, sinks_drawn
from nbkv.studies.leaderboard.standing import best, conclusion, ends, standing, widest
from nbkv.studies.real_text.pictures import INKS, save

DOCS = Path(__file__).parents[2] / "docs"
NAIVE = "cacheblend(budget=0)"


def made(figures, seeds=(1, 2, 3), model="m", task="t", sink="bos"):
    """Return rows: of each strategy its share and KL, the latter a tenth more for each seed."""
    return pd.DataFrame(
        [
            (model, task, sink, strategy, "seeds", str(seed), share, kl * (1 + at / 10), 1.0, float(kl < 0.5))
            for strategy, (share, kl) in figures.items()
            for at, seed in enumerate(seeds)
        ],
        columns=[*COLUMNS],
    )


FIGURES = {
    "full": (1.0, 0.0),
    "prefix": (0.9, 1e-12),
    NAIVE: (0.05, 2.0),
    "random(budget=0.15)": (0.2, 1.5),
    "random(budget=0.3)": (0.35, 1.0),
    "good(budget=0.15)": (0.22, 0.4),
    "good(budget=0.3)": (0.35, 0.1),
    "worse(budget=0.15)": (0.3, 1.9),
}


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as opened:
        yield opened


@pytest.mark.parametrize(
    ("points", "on_it"),
    [
        ([(0.1, 2.0), (0.2, 1.0), (0.3, 1.5)], [True, True, False]),
        ([(0.1, 1.0), (0.1, 1.0)], [True, True]),
        ([(0.5, 1e-9), (0.9, 0.0), (1.0, 1e-12)], [True, False, False]),
        ([(0.2, 1.0), (0.1, 1.0)], [False, True]),
        ([], []),
    ],
)
def test_the_front_is_whom_nobody_beats_in_both(points, on_it):
    frame = made({f"s{at}": point for at, point in enumerate(points)}, seeds=(1,))
    rows = standing(frame) if points else frame
    assert [*(rows["front"] if points else [])] == on_it


def test_an_interval_over_seeds_is_students():
    low, high = ends(np.array([1.0, 2.0, 3.0]), seeds=True)
    assert (low, high) == (pytest.approx(2 - 4.302653 / 3**0.5), pytest.approx(2 + 4.302653 / 3**0.5))
    assert ends(np.array([1.0, 2.0, 3.0]), seeds=False) != (low, high)
    assert np.isnan(ends(np.array([1.0]), seeds=True)).all()


def test_a_board_has_means_intervals_fronts_and_random_at_the_same_share():
    rows = standing(made(FIGURES)).set_index("strategy")
    assert rows.loc["good(budget=0.3)", "kl"] == pytest.approx(0.11)
    assert (rows["kl_low"] >= 0).all()
    assert (rows["kl_high"] >= rows["kl"]).all()
    assert rows.loc["good(budget=0.3)", "random"] == pytest.approx(0.1)
    assert rows.loc["random(budget=0.15)", "random"] == pytest.approx(1)
    assert rows.loc["worse(budget=0.15)", "random"] > 1
    assert np.isnan(rows.loc["prefix", "random"])
    assert {*rows.index[rows["front"]]} == {
        NAIVE,
        "random(budget=0.15)",
        "good(budget=0.15)",
        "good(budget=0.3)",
        "prefix",
    }


def test_one_seed_has_no_interval():
    rows = standing(made(FIGURES, seeds=(1,)))
    assert rows[["kl_low", "kl_high", "right_low", "right_high"]].isna().all(axis=None)
    assert between(rows.iloc[2].to_dict(), "kl") == "2"


def test_a_seeds_figure_is_the_mean_over_its_tasks_and_sinks_stay_apart():
    both = pd.concat(
        [made({"a": (0.2, 1.0)}), made({"a": (0.4, 3.0)}, task="u"), made({"a": (0.1, 9.0)}, sink="primer")]
    )
    rows = standing(both, ["model"]).set_index("sink")
    assert rows.loc["bos", "share"] == pytest.approx(0.3)
    assert rows.loc["bos", "kl"] == pytest.approx(2.2)
    assert rows.loc["primer", "kl"] == pytest.approx(9.9)
    assert len(standing(both, ["model", "task"])) == 3


@pytest.mark.parametrize("gone", [["2"], ["1", "2"], ["3"]])
def test_who_was_not_asked_everything_has_its_own_n_and_is_no_nearest(gone):
    some = made(FIGURES)
    lacking = some[(some["strategy"] != "good(budget=0.3)") | ~some["unit"].isin(gone)]
    rows = standing(lacking).set_index("strategy")
    assert rows.loc["good(budget=0.3)", "n"] == 3 - len(gone)
    assert (rows.drop("good(budget=0.3)")["n"] == 3).all()
    assert rows.loc["good(budget=0.3)", "random"] == pytest.approx(0.1)  # of the units that both have
    assert rows.loc["good(budget=0.3)", "front"]
    assert [*best(rows.reset_index(), 0.35)["strategy"]] == ["good(budget=0.15)"]


def test_rows_are_held_against_each_other_over_what_both_were_asked():
    """By their own means ``easy`` would beat ``hard``, whose one other question is the hard one."""
    frame = made({"hard": (0.2, 1.0), "easy": (0.2, 1.2)}, seeds=(1, 2))
    frame.loc[frame["unit"] == "2", "kl"] *= 10
    frame = frame[(frame["strategy"] == "hard") | (frame["unit"] == "1")]
    rows = standing(frame).set_index("strategy")
    assert rows.loc["easy", "kl"] < rows.loc["hard", "kl"]
    assert rows["front"].to_dict() == {"hard": True, "easy": False}


@pytest.mark.parametrize(("asked", "units"), [(2, 10), (8, 8), (10, 10)])
def test_the_picture_is_of_the_same_questions_in_every_row(asked, units):
    """Of 8 strategies 2 were ``asked`` fewer of 10 questions: six rows of ten questions, or eight rows of fewer."""
    frame = made(FIGURES, seeds=range(10))
    few = {"good(budget=0.3)", "random(budget=0.3)"}
    shown = widest(frame[~frame["strategy"].isin(few) | frame["unit"].isin(map(str, range(asked)))])
    assert few.isdisjoint(shown["strategy"]) == (asked == 2)
    assert {*shown.groupby("strategy")["unit"].nunique()} == {units}
    assert f"{units} seeds" in pareto(standing(shown), {"m": "bos"}, ["good"]).text


def test_the_conclusion_follows_the_figures():
    told = conclusion(standing(made(FIGURES)), 0.35)
    assert "on m good(budget=0.3) behind bos at KL 0.11 (" in told
    assert "naive 2.2" in told
    assert "without a look" not in told
    chance = FIGURES | {"random(budget=0.15)": (0.2, 0.01)}
    assert "a choice without a look at the model was enough on m" in conclusion(standing(made(chance)), 0.35)
    assert conclusion(standing(made(FIGURES)), 0.01) == "**No strategy computes at most 1% of a prompt.**"
    assert [*best(standing(made(FIGURES)), 0.25)["strategy"]] == ["good(budget=0.15)"]


def test_the_picture_has_the_front_in_steps_and_at_most_six_lines():
    more = FIGURES | {f"other{at}(budget=0.15)": (0.25 + at / 50, 0.6) for at in range(5)}
    rows = standing(made(more))
    sinks = sinks_drawn(rows)
    assert sinks == {"m": "bos"}
    methods = drawn(rows, sinks)
    assert methods[0] == "good"
    assert len(methods) == 3
    told = pareto(rows, sinks, methods)
    (line,) = (trace for trace in told.figure.data if trace.name == "front")
    steps = [*zip(line.x, line.y, strict=True)]
    assert all(x == other or y == last for (x, y), (other, last) in pairwise(steps))
    assert len({trace.name for trace in told.figure.data if trace.name}) == 6
    assert "good" in right(rows, sinks, methods).text


def test_the_picture_is_written_in_both_inks(tmp_path):
    rows = standing(made(FIGURES))
    written = save(pareto(rows, {"m": "bos"}, ["good"]), tmp_path, "board")
    assert [path.name for path in written] == ["board_light.png", "board_dark.png"]
    seen = [{*map(tuple, np.asarray(Image.open(path).convert("RGBA")).reshape(-1, 4).tolist())} for path in written]
    inks = [(*bytes.fromhex(ink[1:]), 255) for ink in INKS.values()]
    assert [[ink in colours for ink in inks] for colours in seen] == [[True, False], [False, True]]
    assert all((0, 114, 178, 255) in colours for colours in seen)  # the first line's own colour, in both


def test_everybody_takes_part_or_is_told_why_not(session):
    who = contenders(session.adapter, [0.15])
    names = {row if isinstance(row, str) else row.spec for row in who.rows}
    assert {*EXACT, NAIVE, "random(budget=0.15)", "lexical(budget=0.15)"} <= names
    taking = {name.partition("(")[0] for name in names}
    assert {*nbkv.strategies()["name"]} == (taking - {"random", "lexical"}) | who.refused.keys()
    assert all(who.refused.values())
    with pytest.raises(UnknownName):
        contenders(session.adapter, [0.15], ["nobody"])


def test_questions_of_a_seed_are_measured_as_they_are(session):
    rows = contenders(session.adapter, [1.0], ["epic"]).rows
    grid = {"tasks": ["distance 1"], "seeds": [3, 4], "n": 1, "sinks": ["bos"]}
    frame = measured(session, rows, **grid)
    assert [*frame.columns] == [*COLUMNS]
    assert len(frame) == 2 * len(rows)
    by = frame.groupby("strategy")
    for exact in ("full", "prefix", "epic(budget=1.0)", "random(budget=1.0)"):
        assert by["kl"].max()[exact] < 1e-6
    assert by["share"].max()[NAIVE] < 0.1
    assert by["kl"].min()[NAIVE] > 1e-4
    again = measured(session, rows, **grid)
    pd.testing.assert_frame_equal(frame, again)


def test_kept_tables_have_every_question_and_no_oracle():
    frame = committed(DOCS / "tables" / "real")
    assert {*frame["over"]} == {"questions"}
    assert not frame["strategy"].str.startswith("oracle").any()
    full = frame[frame["strategy"] == "full"]
    assert (full["kl"] == 0).all()
    asked = {path: len(json.loads(path.read_text())["questions"]) for path in (DOCS / "tables" / "real").glob("*.json")}
    assert frame.groupby(["model", "task"])["unit"].nunique().sum() == sum(asked.values())


def test_no_folder_has_no_rows(tmp_path):
    frame = committed(tmp_path / "none")
    assert frame.empty
    assert [*frame.columns] == [*COLUMNS]


def test_page_and_pictures_are_made_of_the_tables_alone(tmp_path):
    (tmp_path / "tables").mkdir()
    shutil.copy(DOCS / "tables" / "leaderboard.json", tmp_path / "tables")
    shutil.copytree(DOCS / "tables" / "real", tmp_path / "tables" / "real")
    assert table.main(["--again", "--out", str(tmp_path)]) == 0
    here, there = ((folder / "leaderboard.md").read_text("utf-8") for folder in (tmp_path, DOCS))
    assert there.partition("### tiny")[2].partition("###")[0] in here
    assert "### smollm2" in here
    for theme in ("light", "dark"):
        with Image.open(tmp_path / "pictures" / f"leaderboard_{theme}.png") as picture:
            assert picture.width > 800
        assert (DOCS / "pictures" / f"leaderboard_{theme}.png").is_file()


def test_the_page_names_the_command_the_seeds_and_the_versions():
    data = json.loads((DOCS / "tables" / "leaderboard.json").read_text("utf-8"))
    frame = table.board(DOCS)
    told = page(frame, data)
    assert {"command", "seeds", "tasks", "budgets", "made with", "refused"} <= data.keys()
    assert all(str(seed) in told for seed in data["seeds"])
    assert data["made with"]["torch"] in told
    assert data["command"] in told
    assert short(standing(frame)) in told
    assert "nan" not in told


def test_the_readme_has_the_short_table_of_the_page():
    readme, page_of = ((DOCS / path).read_text("utf-8") for path in ("../README.md", "leaderboard.md"))
    lines = readme.partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert lines.count("\n") >= 6
    assert lines in page_of
