"""Eight real questions on a real model: what holds whatever method is better; skipped where model or data are not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import nbkv
from nbkv.errors import LoadError
from nbkv.studies.answers import Cell, measure
from nbkv.studies.baselines import LexicalRows
from nbkv.studies.oracle import oracle
from nbkv.studies.real_text.table import DATA, NAIVE

FOLDER = Path(os.environ.get("NBKV_DATA") or Path(__file__).parents[3] / "shared" / "data")
SINKS = ("none", "context")


@pytest.fixture(scope="module")
def session():
    try:
        opened = nbkv.load("smollm2", strategy="full")
    except LoadError as error:
        pytest.skip(f"no smollm2 here: {error}")
    with opened:
        yield opened


# a data set stays with one worker: measuring it is all the work
@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in DATA])
def found(request, session, random_logits):
    file, task = DATA[request.param]
    if not (FOLDER / file).is_file():
        pytest.skip(f"no {file} in $NBKV_DATA, nor in shared/data beside the repository")
    items = [item for item in task(FOLDER / file, seed=1) if len(item.hops) == 2][:4]
    short = {item.name for item in items}
    items = [item for item in task(FOLDER / file, seed=1, chunks=4) if item.name in short]
    assert len(items) == 4
    asked = [NAIVE, "epic(budget=0.15)", "prophet(budget=0.15)", "blend(budget=0.15)", "prophet(budget=1.0)"]
    rows = [*asked, LexicalRows(budget=0.15), oracle("support"), random_logits]
    return [measure(session, item, SINKS, lambda _: rows, 12) for item in items]


def mean(found, name, figure="kl"):
    return float(np.mean([getattr(Cell(*each["cells"][name]), figure) for each in found]))


@pytest.mark.parametrize("sink", SINKS)
def test_the_whole_budget_is_full(found, sink):
    worst = max(Cell(*each["cells"][f"{sink} prophet(budget=1.0)"]).kl_max for each in found)
    assert worst < 1e-4
    assert mean(found, f"{sink} prophet(budget=1.0)", "top1") == 1


@pytest.mark.parametrize("sink", SINKS)
def test_naive_reuse_is_an_error_above_the_noise(found, sink):
    assert mean(found, f"{sink} {NAIVE}") > 10 * max(each["floor"] for each in found)


@pytest.mark.parametrize("sink", SINKS)
def test_random_logits_are_worse_than_anything(found, sink):
    broken = mean(found, f"{sink} broken", "kl_max")
    others = {name for name in found[0]["cells"] if name.startswith(sink) and not name.endswith("broken")}
    assert len(others) == 7
    assert all(mean(found, name, "kl_max") < broken for name in others)


@pytest.mark.parametrize("sink", SINKS)
def test_shares_are_what_was_asked_for(found, sink):
    naive, epic, prophet = (
        mean(found, f"{sink} {name}", "share") for name in (NAIVE, "epic(budget=0.15)", "prophet(budget=0.15)")
    )
    assert naive < epic < prophet  # the question's own pass is counted
    assert epic - naive == pytest.approx(0.15 * (1 - naive), abs=0.04)
