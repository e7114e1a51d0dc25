"""The page of the tables on real text, from made-up tables: what it counts, compares and says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from nbkv.studies.answers import Cell
from nbkv.studies.real_text import table as real_text
from nbkv.studies.real_text.measurements import Table, read
from nbkv.studies.real_text.page import page
from nbkv.studies.real_text.pictures import drawn, over_share, over_time
from nbkv.studies.real_text.verdicts import (
    DEFAULT_SINK,
    RIVAL,
    alias,
    at_equal_share,
    at_one_budget,
    failures,
    over_all,
    standing,
)

BUDGETS = (0.05, 0.15, 0.3)
NAIVE = "cacheblend(budget=0)"
OWN = alias()


def questions(n, errors, *, noise=0.05, kinds=("bridge",)):
    """Return ``n`` questions. ``errors``: by row its compute share, and its error in terms of the question's own."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(n):
        hard = float(draw.lognormal(-3, 0.7))
        cells = {
            row: [hard * times * float(draw.lognormal(0, noise)), 1.0, 0.9, share, 0.8, 0.5]
            for row, (share, times) in errors.items()
        }
        about = {"kind": kinds[number % len(kinds)], "name": f"q{number}", "prompt": 700, "tokens": 9, "floor": 1e-12}
        made.append(about | {"truth": 0.5, "cells": cells})
    return made


def curves(methods, sink=DEFAULT_SINK, select=None):
    """Return rows of methods at all budgets: the error falls with the budget, ``methods`` gives how large it is."""
    rows = {f"{sink} {NAIVE}": (0.04, 2.0)}
    for name, times in methods.items():
        for budget in BUDGETS:
            share = 0.04 + budget + (select or {}).get(name, 0.0)
            rows[f"{sink} {name}(budget={budget})"] = (share, times * (1 - 2 * budget))
    return rows


def table(found, model="m", data="d", **more):
    about = {"model": model, "data": data, "figures": [*Cell.names()], "questions": found}
    return Table(about | more, {})


def usual(times, n=12, noise=0.05, **options):
    """Return questions with the rival, naive reuse and the methods of ``times`` behind the usual sink."""
    rows = curves({"prophet": 1.0}, sink=RIVAL[0]) | curves(times, **options)
    rows |= {f"{DEFAULT_SINK} {name}(budget=0.15)": (0.19, 1.5) for name in ("random", "lexical")}
    return questions(n, rows, noise=noise)


def section(text, heading):
    return next(part for part in re.split(r"(?m)^## ", text) if part.startswith(heading))


def test_every_row_has_its_own_number_of_questions():
    found = usual({OWN: 0.5, "epic": 0.6}, n=9)
    late = f"{DEFAULT_SINK} epic(budget=0.3)"
    for question in found[4:]:
        del question["cells"][late]
    told = page([table(found)])
    rows = {line.split(" | ")[1]: line for line in section(told, "m, d: every row").splitlines() if "(budget=" in line}
    assert rows["epic(budget=0.3)"].split(" | ")[2] == "4"
    assert rows["epic(budget=0.15)"].split(" | ")[2] == "9"
    mean = np.mean([question["cells"][late][0] for question in found[:4]])
    assert rows["epic(budget=0.3)"].split(" | ")[4] == f"{mean:.4f}"
    assert "| m, d | 9 bridge | 4 | 700 |" in told  # four questions have every row


def test_rows_are_compared_over_the_questions_that_both_have_and_never_by_their_own_means():
    """``epic`` was asked the easy questions only: on these it is farther, though its own mean is the smallest."""
    found = usual({OWN: 0.5, "epic": 0.8}, n=16)
    hardest = sorted(found, key=lambda one: -one["cells"][f"{DEFAULT_SINK} {OWN}(budget=0.15)"][0])
    for question in hardest[:8]:
        for budget in BUDGETS:
            del question["cells"][f"{DEFAULT_SINK} epic(budget={budget})"]
    one = table(found)
    means = [one.figures((DEFAULT_SINK, f"{name}(budget=0.15)"), "kl").mean() for name in (OWN, "epic")]
    assert means[1] < means[0]
    for verdict in (at_equal_share(one, 0.2, DEFAULT_SINK), at_one_budget(one, DEFAULT_SINK)):
        assert verdict.nearest == (DEFAULT_SINK, OWN)
        assert verdict.n == 8
        assert (DEFAULT_SINK, "epic") in verdict.worse
    ratio = one.against((DEFAULT_SINK, "epic"), (DEFAULT_SINK, OWN), 0.2)
    assert (ratio.n, ratio.farther) == (8, True)
    assert ratio.ratio == pytest.approx(1.6, rel=0.1)
    assert f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), 0%, n 8" in page([one])


def test_a_method_that_most_questions_lack_is_not_compared_and_named():
    found = usual({OWN: 0.5, "epic": 0.8, "passage": 0.1}, n=12)
    for question in found[3:]:
        for budget in BUDGETS:
            del question["cells"][f"{DEFAULT_SINK} passage(budget={budget})"]
    verdict = at_equal_share(table(found), 0.2, DEFAULT_SINK)
    assert verdict.n == 12
    assert verdict.alone == ((DEFAULT_SINK, "passage"),)
    assert "not compared: passage" in section(page([table(found)]), "Who is nearest")


def test_at_equal_share_who_computes_more_to_choose_has_fewer_rows():
    """At one budget it is nearer; at the same share it has a budget of .05 less, and is not."""
    found = usual({OWN: 0.62, "epic": 0.65}, select={OWN: 0.1})
    one = table(found)
    at_budget = at_one_budget(one, DEFAULT_SINK)
    assert at_budget.nearest == (DEFAULT_SINK, OWN)
    assert at_budget.shares[DEFAULT_SINK, OWN] == pytest.approx(0.29)
    assert at_equal_share(one, 0.25, DEFAULT_SINK).nearest == (DEFAULT_SINK, "epic")
    assert at_equal_share(one, 0.15, DEFAULT_SINK) is None  # the one was not measured there
    told = section(page([one]), "Who is nearest")
    assert f"**{OWN} (29%)**" in told
    assert "| m, d | context | 0.25 | 12 | **epic** |" in told


@pytest.mark.parametrize("n", [1, 5, 6, 12])
def test_few_questions_name_nobody(n):
    one = table(usual({OWN: 0.3, "epic": 0.9}, n=n))
    line = next(line for line in page([one]).splitlines() if line.startswith("| m, d | context | 0.2 |"))
    assert (f"**{OWN}**" in line) == (n >= 6)
    assert (f"| {n} | too few questions ({OWN})" in line) == (n < 6)
    assert bool([*failures(table(usual({OWN: 0.9, "epic": 0.3}, n=n)), OWN)]) == (n >= 6)
    assert "nan" not in page([one])


def test_equals_are_told_as_such():
    verdict = at_equal_share(table(usual({OWN: 0.5, "epic": 0.5, "passage": 0.9})), 0.2, DEFAULT_SINK)
    assert len(verdict.tied) == 1
    assert verdict.worse == [(DEFAULT_SINK, "passage")]


def test_where_blend_fails_is_said_with_model_data_sink_and_share():
    good, bad = table(usual({OWN: 0.5, "epic": 0.8})), table(usual({OWN: 0.8, "epic": 0.5}), data="e")
    assert not [*failures(good, OWN)]
    found = [*failures(bad, OWN)]
    assert {(one.table, one.sink) for one in found} == {("m, e", DEFAULT_SINK)}
    assert [one.why for one in found if "share" in one.why] == [
        f"is farther than `epic` at share {share}" for share in (0.15, 0.2, 0.25)
    ]
    assert any("at budget 0.15, which computes no more" in one.why for one in found)
    told = section(page([good, bad]), "`blend` names")
    assert "**It fails** in 4 comparisons" in told
    assert "| m, e | context | is farther than `epic` at share 0.2 | 1.6" in told
    assert "| m, d |" not in told.partition("It fails")[2]
    assert "No comparison with one other method" in page([good])


@pytest.mark.parametrize("name", [NAIVE, "random(budget=0.15)", "lexical(budget=0.15)"])
@pytest.mark.parametrize(("times", "how"), [(0.2, "is farther than"), (0.35, "is not shown to be nearer than")])
def test_blend_fails_where_it_does_not_beat_who_looks_at_no_model(name, times, how):
    found = questions(12, curves({OWN: 0.5}) | {f"{DEFAULT_SINK} {name}": (0.19, times)}, noise=0)
    for number, question in enumerate(found):
        question["cells"][f"{DEFAULT_SINK} {name}"][0] *= 1 + (-1) ** number / 10
    (failure,) = failures(table(found), OWN)
    assert failure.why == f"{how} `{name}`, itself at budget 0.15"


def test_the_alias_must_move_where_another_is_nearer_over_all_tables():
    tables = [table(usual({OWN: 0.8, "epic": 0.5}), data=data) for data in "de"]
    told = section(page(tables), "`blend` names")
    assert "**In the tables as they are `epic` (0.6" in told
    assert "the name would have to move.**" in told
    mixed = [table(usual({OWN: 0.8, "epic": 0.5})), table(usual({OWN: 0.5, "epic": 0.8}), data="e")]
    assert "not told apart from `epic`" in section(page(mixed), "`blend` names")
    clear = section(page([table(usual({OWN: 0.3, "epic": 0.9}))]), "`blend` names")
    assert "In the tables as they are nobody is.\n" in clear


@pytest.mark.parametrize(("times", "swing", "said"), [(0.5, 0, "met"), (0.9, 0, "missed"), (0.65, 0.6, "not decided")])
def test_the_aim_is_met_missed_or_not_decided(times, swing, said):
    """Where its error is ``swing`` more and less than that from question to question, chance decides."""
    found = usual({OWN: times, "epic": 1.0}, noise=0)
    for number, question in enumerate(found):
        for name, figures in question["cells"].items():
            figures[0] *= 1 + (-1) ** number * swing * (f" {OWN}(" in name)
    cell = section(page([table(found)]), "`blend` names")
    (line,) = re.findall(r"(?m)^\| m, d \| \d.*", cell.partition("The aim is")[2].partition("It fails")[0])
    assert line.count(said) == 3


def test_only_what_every_table_has_stands_over_all_tables():
    tables = [table(usual({OWN: 0.5, "epic": 0.8})), table(usual({OWN: 0.5}), data="e")]
    ranked = dict(standing(tables))
    assert {*ranked} == {RIVAL, (DEFAULT_SINK, OWN)}
    assert ranked[RIVAL].ratio == 1
    assert ranked[DEFAULT_SINK, OWN].n == 24
    assert over_all(tables, (DEFAULT_SINK, "epic"), RIVAL) is None


@pytest.mark.parametrize("seed", range(3))
def test_tables_with_holes_anywhere_make_a_whole_page(tmp_path, seed):
    draw = np.random.default_rng(seed)
    folder = tmp_path / "tables" / "real"
    folder.mkdir(parents=True)
    for data in "de":
        found = (
            usual({OWN: 0.5, "epic": 0.8}, n=7) if data == "d" else questions(1, curves({OWN: 0.5}), kinds=("2hop",))
        )
        for question in found:
            question["cells"] = {name: cell for name, cell in question["cells"].items() if draw.random() < 0.7}
        made = table(found, data=data).data
        (folder / f"{data}.json").write_text(json.dumps(made))
    real_text.main(["--again", "--out", str(tmp_path)])
    told = (tmp_path / "real-text.md").read_text("utf-8")
    assert "nan" not in told
    for one in read(folder):
        listed = section(told, f"{one.title}: every row")
        for sink, strategy in one.rows:
            assert f"| {sink} | {strategy} | {one.n((sink, strategy))} |" in listed
    for name in re.findall(r"pictures/(\w+\.png)", told):
        assert (tmp_path / "pictures" / name).is_file()


def test_the_picture_is_of_the_same_questions_and_says_how_many():
    found = usual(dict.fromkeys((OWN, "prophet", "epic", "passage", "cacheblend", "cachecraft", "kvshare"), 0.5))
    for question in found[5:]:
        del question["cells"][f"{DEFAULT_SINK} epic(budget=0.3)"]
    for question in found[2:]:
        del question["cells"][f"{DEFAULT_SINK} cachecraft(budget=0.3)"]
    one = table(found)
    assert [*drawn(one)] == [OWN, "prophet", "cacheblend", "kvshare", "passage"]  # epic, cachecraft: too few questions
    told = over_share([one, table([{**each, "cells": {}} for each in found], data="none")])
    assert "m, d, n 12" in told.text
    assert "none" not in told.text
    timed = Table(one.data, {f"{OWN}(budget={budget})": 4.0 for budget in BUDGETS})
    assert "25: " in over_time([timed]).text
    assert "prophet" not in over_time([timed]).text
