"""A small slice of the table of eviction strategies, and what calibrates LazyEviction."""

from __future__ import annotations

import json

import pytest

import nbkv
from nbkv.studies import eviction
from nbkv.studies.divergence import trace
from nbkv.studies.eviction import BASELINES, SAMPLE, SEEDS, calibrate, foreseen, markdown, measure, questions, specs


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


@pytest.fixture(scope="module")
def items():
    return questions([5], 2)


def test_what_calibrates_is_not_what_is_asked():
    assert SAMPLE not in SEEDS


def test_a_window_is_a_quantile_of_the_intervals(session, items):
    prompts = [[*item.chunks, item.question] for item in items]
    windows = [calibrate(session, prompts, quantile=share)["window"] for share in (0.5, 0.8)]
    strict = calibrate(session, prompts[:1], alpha=0.2)

    assert 1 <= windows[0] < windows[1] < 150
    assert strict["share"] < calibrate(session, prompts[:1])["share"]


def test_part_of_what_an_answer_uses_was_never_used_before(session, items):
    told = foreseen(session, items)
    assert 0.005 < told["used"] < 0.2
    assert 0.1 < told["seen_before"] < 0.9
    assert told["again"] < told["seen_before"]


def test_the_page_says_what_was_measured(session, items):
    found = {"alpha": None, "window": 24, "share": 0.9}
    wanted = specs(found, keeps=[0.5])
    rows = measure(session, items[:1], ["h2o(keep=1.0)", *wanted])
    oracle = next(row for row in rows if row["strategy"] == "oracle(keep=0.5)")
    page = markdown(
        {
            "command": "this test",
            "regime": "a few",
            "calibrated": found,
            "foreseen": foreseen(session, items[:1]),
            "rows": rows,
        }
    )
    by_name = {row["strategy"]: row for row in rows}

    assert len(wanted) == 3 + len(BASELINES)
    assert all(f"| {spec} |" in page for spec in wanted)
    assert oracle["kl"] < min(row["kl"] for row in rows if row["strategy"] in wanted)
    assert by_name["h2o(keep=1.0)"]["right"] == by_name["full"]["right"] == [1]
    assert by_name["h2o(keep=1.0)"]["kl"] < 1e-6
    for spec in map(str, wanted):
        assert by_name[spec]["held"] <= 0.52
        assert by_name[spec]["kl"] > by_name["full"]["kl"] == 0
        assert (by_name[spec]["until"] == 1) == (by_name[spec]["match"] == 1)


def test_a_trace_of_fulls_own_answer_is_full(session, items):
    prompt = [*items[0].chunks, items[0].question]
    result = session.generate(prompt, max_new_tokens=20)
    told = trace(session, prompt, result.token_ids, "full")

    assert told.picks() == list(result.token_ids)
    assert told.held == told.peak > told.mean_held > 0
    assert told.distance(told) == 0


def test_rows_of_an_earlier_run_stay(items, tmp_path, monkeypatch):
    monkeypatch.setattr(eviction, "questions", lambda *_: items[:1])
    monkeypatch.setattr(eviction, "KEEPS", (0.5,))
    monkeypatch.setattr(eviction, "specs", lambda _: ["h2o(keep=0.5)", "streaming(keep=0.5)"])
    eviction.main(1, "tiny", str(tmp_path))
    table = tmp_path / "tables" / "eviction.json"
    data = json.loads(table.read_text(encoding="utf-8"))
    data["rows"] = [row | {"step": 9.5} for row in data["rows"] if not row["strategy"].startswith("h2o")]
    table.write_text(json.dumps(data), encoding="utf-8")
    eviction.main(1, "tiny", str(tmp_path))
    rows = {row["strategy"]: row["step"] for row in json.loads(table.read_text(encoding="utf-8"))["rows"]}

    assert list(rows) == ["full", "h2o(keep=0.5)", "streaming(keep=0.5)"]
    assert rows["streaming(keep=0.5)"] == 9.5 != rows["h2o(keep=0.5)"]
