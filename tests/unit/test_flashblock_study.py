"""The table of what kept attention costs in answers, on a small slice."""

from __future__ import annotations

import json

import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.studies.flashblock import FULL, TAUS, comparison, measure, page, sparse, table
from nbkv.studies.flashblock.answer_log import AnswerLog

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
    (shadow,) = comparison._followed(session, items, KEPT, "static")
    full = comparison._ask(session, items[0], FULL, "static")

    assert len(shadow.kl) == len(shadow.top1) == full.decoding["forwards"] - full.decoding["blocks"] + 1
    assert (
        comparison._ask(session, items[0], comparison.Shadow(tau=4, threshold=None), "static").token_ids
        == full.token_ids
    )


def test_sparse_rows_come_in_pairs():
    assert [row.split("density=")[1] for row in sparse((0.2,))] == ["0.2, residual=True)", "0.2, residual=False)"]


@pytest.fixture
def slices(blockwise_reader, tmp_path, monkeypatch):
    """Give a function that runs the command on a small table, for so many seconds as answers that may be given."""
    monkeypatch.setattr(table, "TAUS", (EXACT,))
    monkeypatch.setattr(table, "sparse", lambda tau=64: sparse((0.3,), tau)[:1])
    made = nbkv.tasks.report
    monkeypatch.setattr(table, "report", lambda **_: made(seed=1, n=2, chunks=4, lines=4, distance=0))
    monkeypatch.setattr(comparison, "_ROOM", -24)
    given = []

    def counted(*asked, **options):
        given.append(asked[2])
        return comparison.answer(*asked, **options)

    def run(folder="whole", answers=None, n=2):
        given.clear()
        monkeypatch.setattr(table, "answer", counted)
        monkeypatch.setattr(table.time, "monotonic", lambda: float(len(given)))
        limit = [] if answers is None else ["--seconds", str(answers - 0.5)]
        code = table.main(
            ["--model", str(blockwise_reader), "--out", str(tmp_path / folder), "-n", str(n), "--blocks", "8", *limit]
        )
        return code, len(given)

    return run


def figures(folder):
    """Return the rows without what the clock says."""
    rows = json.loads((folder / "tables" / "flashblock.json").read_text(encoding="utf-8"))["rows"]
    timed = ("tokens_per_second", "attention_s")
    return [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows]


def test_the_command_writes_the_table(slices, tmp_path):
    assert slices() == (0, 12)  # full, exact and a pair of sparse ones, then full and exact: of two questions each
    data = json.loads((tmp_path / "whole" / "tables" / "flashblock.json").read_text(encoding="utf-8"))
    pair = [sparse((0.3,), tau)[0] for tau in (2, 64)]
    assert [row["strategy"] for row in data["rows"]] == [FULL, EXACT, *pair, FULL, EXACT]
    assert {row["block"] for row in data["rows"]} == {8}
    assert "2 reports" in data["regime"]
    told = (tmp_path / "whole" / "flashblock.md").read_text(encoding="utf-8")
    assert all(f"| {row['strategy']} | 8 | {row['unmask']} |" in told for row in data["rows"])
    assert "TraDo-8B-Thinking" in told
    assert not list((tmp_path / "whole" / "tables").glob("*.part*"))


@pytest.mark.parametrize("each", [4, 5, 11])
def test_slices_make_the_same_table_and_no_answer_is_given_twice(slices, tmp_path, each):
    slices()
    done, code = 0, table.UNFINISHED
    while code:
        code, given = slices("sliced", each)
        assert given == min(each, 12 - done)
        assert code == (table.UNFINISHED if done + given < 12 else 0)
        assert (tmp_path / "sliced" / "flashblock.md").is_file() == (code == 0)
        done += given
    assert done == 12
    assert figures(tmp_path / "sliced") == figures(tmp_path / "whole")


@pytest.mark.parametrize("torn", ['{"of": [8, "sta', "{", '{"of": [8, "static", "full", 0], "answer": {"right": 1}}'])
def test_a_line_that_a_killed_process_left_in_part_is_answered_again(slices, tmp_path, torn):
    slices("torn", 3)
    part = tmp_path / "torn" / "tables" / "flashblock.part.jsonl"
    with part.open("a", encoding="utf-8") as file:
        file.write(torn)
    assert slices("torn") == (0, 9)


def test_another_model_version_or_number_of_questions_is_not_mixed_in(slices, tmp_path):
    slices("other", 3)
    with pytest.raises(BadOption, match="is of another questions: remove it to begin anew"):
        slices("other", n=1)
    path = tmp_path / "log.jsonl"
    AnswerLog(path, {"model": "a", "torch": "1"}).add((1, "x"), {"right": 1})
    assert AnswerLog(path, {"model": "a", "torch": "1"}).known == {(1, "x"): {"right": 1}}
    for other in ({"model": "b", "torch": "1"}, {"model": "a", "torch": "2"}, {"model": "a"}):
        with pytest.raises(BadOption, match="is of another"):
            AnswerLog(path, other)


def test_the_papers_setting_is_marked():
    row = {"strategy": TAUS[1], "block": 4, "unmask": "dynamic(threshold=0.9)"}
    assert page._is_papers(row)
    assert not any(page._is_papers(row | other) for other in ({"block": 16}, {"unmask": "static"}))
    assert not page._is_papers(row | {"strategy": TAUS[0]})
