"""Long work of a session tells each of its steps, can be stopped between them, and gives what there was."""

import io
import json
import signal

import pytest

from nbkv.events import Advanced
from nbkv.families.residual import planner
from nbkv.families.residual.bandwidth import Bandwidths
from nbkv.show import progress
from nbkv.show.progress import ProgressBars, progress_html, progress_text, screen
from nbkv.tasks import Item

WORKS = {
    "compare": lambda session, items: session.compare(items[0].chunks[0], "full,prefix", max_new_tokens=2, repeat=2),
    "verify": lambda session, items: session.verify("prefix"),
    "certify": lambda session, items: session.certify(items, max_kl=9, rate=0.5, alpha=0.5, strategies="prefix,full"),
    "plan": lambda session, items: session.plan(8),
}
ROWS = {"compare": "rows", "verify": "rows", "certify": "rows", "plan": "ways"}


@pytest.fixture(params=sorted(WORKS))
def work(request):
    return request.param


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    given = Bandwidths(memory=1e10, host=5e9, disk=1e9, gemm=1e11, rows=64)
    monkeypatch.setattr(planner, "rates", lambda adapter, rows: given)
    monkeypatch.setattr(planner, "_pure", lambda adapter: ["ids", "layers", "host"])


@pytest.fixture
def items(words):
    return [Item([words(12, seed=i), words(12, seed=i + 50)], words(4, seed=i + 99), [], "made") for i in range(3)]


def heard(session, at=-1, do=None):
    """Return the list that steps go to; ``do`` is called when step ``at`` is told."""
    told = []

    def listener(event):
        if isinstance(event, Advanced):
            told.append(event)
            if event.done == at and not event.over:
                do()

    session.events.add(listener)
    return told


def test_each_step_is_told_before_it_is_done_and_the_end_after_all(session_of, items, work):
    session = session_of()
    told = heard(session)
    found = WORKS[work](session, items)
    *steps, last = told
    assert {event.work for event in told} == {work}
    assert [event.done for event in steps] == list(range(len(steps)))
    assert all(event.doing and not event.over for event in steps)
    assert len(steps) >= 3
    assert last.over
    assert last.done == last.total >= len(steps)
    assert last.found["kind"] == found.to_dict()["kind"]
    json.dumps([event.to_dict() for event in told], allow_nan=False)


def test_rows_appear_as_they_finish(session_of, items, work):
    session = session_of()
    told = heard(session)
    WORKS[work](session, items)
    filled = [sum(value is not None for row in event.found[ROWS[work]] for value in row.values()) for event in told]
    assert filled == sorted(filled)
    assert len(set(filled)) >= (2 if work == "certify" else 3)  # certify has all its rows from the first prompt on


def test_stop_gives_what_there_is_and_says_how_far_it_came(session_of, items, work):
    session = session_of()
    heard(session, at=1, do=session.stop)
    found = WORKS[work](session, items)
    assert found.stopped.startswith("stopped after 1 of ")
    assert found.stopped in repr(found)
    assert found.stopped in found._repr_html_()
    assert not getattr(found, "ok", False)
    assert not getattr(found, "pick", "")
    assert not session.busy


def test_an_interrupt_raises_with_what_there_is_in_one_line(session_of, items, work):
    session = session_of()
    heard(session, at=1, do=lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as raised:
        WORKS[work](session, items)
    assert raised.value.result.stopped.startswith("stopped after 1 of ")
    (line,) = raised.value._render_traceback_()
    assert line == f"KeyboardInterrupt: {raised.value.result.stopped}"
    assert not session.busy


def test_a_stopped_check_is_no_verdict(session_of):
    session = session_of()
    heard(session, at=2, do=session.stop)
    report = session.verify("prefix")
    assert report.stopped
    assert all(row["ok"] for row in report.rows)
    assert "no verdict" in repr(report)
    assert session._ctx.verdicts.get("prefix") is None
    assert session.generate("w1 w2", max_new_tokens=1).token_ids


def test_rows_of_a_stopped_comparison_are_those_that_ran(session_of):
    session = session_of()
    heard(session, at=1, do=session.stop)
    table = session.compare("w1 w2 w3", "prefix", repeat=1, max_new_tokens=2)
    assert [row["strategy"] for row in table.rows] == ["full"]
    assert table.rows[0]["kl"] is None
    assert session.last is table
    session.events._listeners = session.events._listeners[:2]
    heard(session, at=0, do=session.stop)
    assert session.compare("w1 w2 w3", "prefix", repeat=1).rows == ()


def test_an_error_ends_the_work_for_who_watches(session_of, random_logits):
    session = session_of()
    told = heard(session)

    class Broken(type(random_logits)):
        def run(self, partial, chosen):
            message = "broken on purpose"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="on purpose"):
        session.compare([session.chunk("w1 w2 w3 w4"), "w5"], [Broken()], repeat=1)
    assert told[-1].over


class Drawn(io.StringIO):
    def isatty(self):
        return True


def advanced(done, **fields):
    return Advanced(session="s", work="compare", done=done, total=4, **fields)


def test_a_bar_names_the_step_and_is_gone_afterwards(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr("sys.stderr", Drawn())
    import sys

    bars = ProgressBars()
    bars(advanced(0, doing="full"))
    bars(advanced(1, doing="prefix"))
    assert "compare" in sys.stderr.getvalue()
    assert not sys.stderr.getvalue().endswith("\n")
    bars(advanced(4, over=True))
    assert not bars._bars
    assert sys.stderr.getvalue().rpartition("\r")[2].strip() == ""


def test_a_log_file_gets_no_bar(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    import sys

    bars = ProgressBars()
    for done in range(3):
        bars(advanced(done, doing="full"))
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("doing", ["full, run 1 of 3", "<b>&</b>", "prompt 3 of 59, 12 strategies"])
def test_a_view_says_what_runs_and_how_far(doing):
    event = advanced(1, doing=doing).to_dict()
    assert progress_text(event, 12.0) == f"compare: {doing} (1 of 4 steps, 12.0 s)"
    html = progress_html(event, 12.0)
    assert "width:25%" in html
    assert "<b>&" not in html
    assert progress_text(advanced(4, over=True).to_dict(), 90) == "compare: done in 90.0 s"
    assert progress_text(advanced(3, over=True).to_dict(), 90) == "compare: ended after 3 of 4 steps in 90.0 s"


def test_who_takes_over_shows_every_session(session_of, monkeypatch):
    told = []
    monkeypatch.setattr(screen, "shown_by", told.append)
    session_of().compare("w1 w2", "full", repeat=1, max_new_tokens=1)
    session_of().compare("w1 w2", "full", repeat=1, max_new_tokens=1)
    assert len({event.session for event in told if event.work == "compare"}) == 2
    assert all(isinstance(event, Advanced) for event in told)
