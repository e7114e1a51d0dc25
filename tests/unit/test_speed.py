"""Times to first token beside full's: each row that can be timed, in turns."""

from __future__ import annotations

import nbkv
from nbkv.studies.real_text.speed import read_speeds, speeds, write_speeds
from nbkv.tasks import ledger


def test_every_row_is_timed_in_turns(monkeypatch, tmp_path):
    asked = []

    def ttft(session, prompt, strategy):
        asked.append(strategy.spec)
        return {"full": 4.0, "epic(budget=0.1)": 1.0, "prophet(budget=0.1)": 2.0}[strategy.spec] + len(asked) / 1e6

    monkeypatch.setattr("nbkv.studies.real_text.speed._ttft", ttft)
    with nbkv.load("tiny") as session:
        found = speeds(session, ledger(n=2, chunks=3), ["epic(budget=0.1)", "prophet(budget=0.1)", "kvshare"])

    assert found == {"epic(budget=0.1)": 4.0, "prophet(budget=0.1)": 2.0}
    assert asked == ["full", "epic(budget=0.1)", "prophet(budget=0.1)"] * 4
    write_speeds(tmp_path / "a" / "b.json", found, {"questions": 2})
    assert read_speeds(tmp_path / "a" / "b.json") == found
    assert read_speeds(tmp_path / "nothing.json") == {}
