"""The table of what kept attention costs in answers, on a small slice."""

from __future__ import annotations

import json

import pytest

import nbkv
from nbkv.studies import flashblock
from nbkv.studies.flashblock import FULL, measure, sparse

EXACT = "flashblock(tau=1, threshold=None, min_gain=0)"
KEPT = "flashblock(tau=4, threshold=None, min_gain=0)"


@pytest.fixture
def session(blockwise_reader):
    with nbkv.load(blockwise_reader) as opened:
        yield opened


@pytest.fixture
def items():
    return nbkv.tasks.report(seed=1, n=1, chunks=4, lines=4, distance=0)


def test_what_refreshes_always_is_full_and_what_keeps_is_not(session, items):
    full, exact, kept = measure(session, items, [FULL, EXACT, KEPT], "static", followed=1)

    assert full["right"] == exact["right"]
    assert exact["kl"] < 1e-6
    assert exact["top1"] == 1
    assert exact["reuse_rate"] == full["difference"] == exact["difference"] == 0
    assert kept["kl"] > 1e-4
    assert kept["reuse_rate"] > 0.5
    assert kept["effective_reuse"] == kept["reuse_rate"]
    assert exact["effective_reuse"] == 0
    assert kept["top1"] <= 1
    assert full["tokens_per_forward"] == exact["tokens_per_forward"]
    assert kept["attention_s"] > 0


def test_followed_passes_go_fulls_way(session, items):
    (shadow,) = flashblock._followed(session, items, KEPT, "static")
    full = flashblock._ask(session, items[0], FULL, "static")

    assert len(shadow.kl) == len(shadow.top1) == full.decoding["forwards"] - full.decoding["blocks"] + 1
    assert (
        flashblock._ask(session, items[0], flashblock.Shadow(tau=4, threshold=None), "static").token_ids
        == full.token_ids
    )


def test_sparse_rows_come_in_pairs():
    assert [row.split("density=")[1] for row in sparse((0.2,))] == ["0.2, residual=True)", "0.2, residual=False)"]


def test_the_command_writes_the_table(blockwise_reader, tmp_path, monkeypatch):
    monkeypatch.setattr(flashblock, "TAUS", (EXACT,))
    monkeypatch.setattr(flashblock, "sparse", lambda tau=64: sparse((0.3,), tau)[:1])
    monkeypatch.setattr(flashblock, "report", lambda **_: nbkv.tasks.report(seed=1, n=1, chunks=4, lines=4, distance=0))
    monkeypatch.setattr(flashblock, "_ROOM", -24)
    flashblock.main(str(blockwise_reader), str(tmp_path), n=1, blocks=(8,))
    table = json.loads((tmp_path / "tables" / "flashblock.json").read_text(encoding="utf-8"))

    pair = [sparse((0.3,), tau)[0] for tau in (2, 64)]
    assert [row["strategy"] for row in table["rows"]] == [FULL, EXACT, *pair, FULL, EXACT]
    assert {row["block"] for row in table["rows"]} == {8}
    assert "1 reports" in table["regime"]
    page = (tmp_path / "flashblock.md").read_text(encoding="utf-8")
    assert all(f"| {row['strategy']} | 8 | {row['unmask']} |" in page for row in table["rows"])
    assert "TraDo-8B-Thinking" in page


def test_the_papers_setting_is_marked():
    row = {"strategy": flashblock.TAUS[1], "block": 4, "unmask": "dynamic(threshold=0.9)"}
    assert flashblock._is_papers(row)
    assert not any(flashblock._is_papers(row | other) for other in ({"block": 16}, {"unmask": "static"}))
    assert not flashblock._is_papers(row | {"strategy": flashblock.TAUS[0]})
