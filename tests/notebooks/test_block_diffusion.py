"""The notebook on block diffusion, small, on a reader that was not trained for it: what must hold holds for any."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "30_block_diffusion.ipynb"
SMALL = {"n": 1, "followed": 1, "chunks": 4, "lines": [4], "blocks": [4, 8], "taus": [1, 2], "unmasks": ["static"]}


@pytest.fixture(scope="module")
def sweep(blockwise_reader, tmp_path_factory):
    chosen = SMALL | {"model": str(blockwise_reader), "thresholds": [0.9], "densities": [0.3]}
    return run(NOTEBOOK, chosen, out_dir=tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="module")
def records(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_a_refresh_in_every_pass_is_full(records):
    assert records["tau_one_is_full"]
    assert records["tau_one_kl"] < 1e-6


def test_reuse_is_measured_pass_by_pass(records):
    assert records["kl_tau_two"] > records["tau_one_kl"]
    assert records["tau_two"].keys() == {"4 static", "8 static"}
    assert records["residual_kl"].keys() == records["plain_kl"].keys() == {"0.3"}
    assert all(0 <= count <= 32 for count in records["heads_computed"].values())


def test_the_report_shows_a_figure_for_each_measure(sweep):
    page = sweep.report.read_text(encoding="utf-8")
    for title in (
        "Right reports by tau",
        "Distance of a pass",
        "Seconds of attention",
        "Tokens a second",
        "sparse pass",
    ):
        assert title in page


def test_outputs_are_pictures_and_a_sentence(sweep, shown_well):
    shown_well(sweep, 4)
