"""The notebook on state checkpoints, small: what it records holds, and every figure reaches the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "41_state_checkpoints.ipynb"
SMALL = {
    "families": ["qwen3_5_text", "jamba"],
    "hidden": 64,
    "turns": 6,
    "lines": 12,
    "histories": [96],
    "repeat": 1,
    "users": 2,
    "segment": 64,
    "block": 16,
    "rooms": [0.3],
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return run(NOTEBOOK, SMALL, out_dir=tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def found(sweep):
    assert not sweep.failed, sweep.failed[0].error
    return sweep.runs[0].records


def test_every_family_goes_on_as_it_may_and_gives_its_own_logits(found):
    assert found["goes_on"] == {"qwen3_5_text": "passes", "jamba": "tokens"}
    assert found["proved"]
    assert found["worst_error"] < 1e-4
    assert found["same_answers"]
    assert found["worst_kl"] < 1e-6


def test_a_second_turn_computes_its_own_tokens_only(found):
    for family, computed in found["second_turn"].items():
        assert computed < 0.5 * found["second_turn_full"][family]


def test_a_checkpoint_behind_each_block_costs_more_and_few_save_nearly_as_much(found):
    few, blocks = "answers and branches", "every 16 tokens"
    assert found["state_bytes"][few] < found["state_bytes"]["every 64 tokens"] < found["state_bytes"][blocks]
    assert found["computed"][blocks] <= found["computed"][few] < 1
    assert found["within"]
    assert all(0 < share < 1 for share in found["tight"].values())


def test_the_report_shows_every_figure(sweep):
    page = sweep.report.read_text(encoding="utf-8")
    titles = ("Tokens computed in each turn", "Time to first token", "Bytes held", "Share of prompt tokens computed")
    assert all(title in page for title in titles)
    assert page.count("<figure>") >= len(titles)


def test_outputs_are_pictures_and_a_sentence(sweep, shown_well):
    shown_well(sweep, 4)
