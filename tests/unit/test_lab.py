"""The panel's other end, with a stand-in for the comm."""

from __future__ import annotations

import gc
import json
import sys
import threading
from types import SimpleNamespace

import comm
import pytest
from waiting import until

from nbkv.events import Advanced, Token, Waiting
from nbkv.lab import Lab
from nbkv.lab.comm import INTERVAL
from nbkv.roster import Roster, process_work, roster
from nbkv.show.columns import outline
from nbkv.show.why import why_data
from nbkv.stopping import Stopped


class Line:
    """A comm that keeps what was sent."""

    def __init__(self, target_name="", data=None):
        self.target, self.sent, self.closed = target_name, [json.loads(json.dumps(data))], False

    def on_msg(self, callback):
        self.hear = lambda said: callback({"content": {"data": said}})

    def on_close(self, callback):
        self.lose = lambda: callback({})

    def send(self, data):
        self.sent.append(json.loads(json.dumps(data)))

    def close(self):
        self.closed = True


@pytest.fixture
def front_end(monkeypatch):
    """What a front end sees: the comms that were opened, and the targets it can open one for."""
    lines, targets = [], {}

    def create_comm(**given):
        lines.append(Line(**given))
        return lines[-1]

    manager = SimpleNamespace(
        register_target=targets.__setitem__, unregister_target=lambda name, _: targets.pop(name, None)
    )
    monkeypatch.setattr(comm, "create_comm", create_comm)
    monkeypatch.setattr(comm, "get_comm_manager", lambda: manager)

    def control(said):
        line = Line()
        targets["nbkv.ctl"](line, {"content": {"data": said}})
        return line

    return SimpleNamespace(lines=lines, targets=targets, control=control)


@pytest.fixture
def later():
    return []


@pytest.fixture
def lab(front_end, later):
    made = Lab(later.append)
    made.open()
    yield made
    made.close()


@pytest.fixture
def session(lab, session_of):
    return session_of()


def shown(front_end, number=-1):
    """Return the session as the front end saw it last."""
    return front_end.lines[-1].sent[-1]["sessions"][number]


def test_nothing_is_sent_before_somebody_answers(front_end, lab, session, words):
    session.generate(words(8), max_new_tokens=4)
    (line,) = front_end.lines
    assert line.target == "nbkv"
    assert len(line.sent) == 1
    assert lab._wire._thread is None


def test_who_answers_late_sees_what_was_there_before(front_end, session, words):
    session.generate(words(8), max_new_tokens=4)
    session.generate(words(8), max_new_tokens=4)
    front_end.control({"event": "sync"})
    until(lambda: len(front_end.lines[0].sent) > 1)
    state = shown(front_end)
    assert state["requests"] == 2
    assert len(state["ttft_s"]) == 2
    assert state["hit_rate"] == pytest.approx(session.stats.hit_rate)
    assert [past["request"] for past in state["recent"]] == [2, 1]
    assert state["tiers"] == session.store.figures()


def test_sessions_of_before_the_panel_count_too(front_end, lab, session_of, words):
    lab.close()
    session = session_of()
    session.generate(words(8), max_new_tokens=2)
    new = Lab(print)
    new.open()
    assert shown(front_end)["requests"] == 1
    new.close()


def test_maps_are_those_of_the_result(front_end, session, words):
    front_end.control({"event": "sync"})
    session.generate(words(30), max_new_tokens=2)
    result = session.generate(words(30) + " w1 w2 w3", max_new_tokens=2)
    until(lambda: shown(front_end)["requests"] == 2)
    (past, _) = shown(front_end)["recent"]
    assert past["map"] == outline(result.to_dict())
    assert past["map"]["totals"] == f"P{result.tokens.reused} F{result.tokens.fresh}"
    assert past["honesty"] == "exact"
    assert past["hit_rate"] == result.hit_rate


class Pauses(threading.Event):
    """Stands for the pause between two states: it is over when ``over`` is set, however long it was to be."""

    def __init__(self):
        super().__init__()
        self.asked, self.over = [], threading.Semaphore(0)

    def wait(self, timeout=None):
        self.asked.append(timeout)
        self.over.acquire()
        return self.is_set()


def test_at_most_ten_a_second_and_never_without_the_last(front_end, lab, session, words):
    lab._wire._ended = pauses = Pauses()
    front_end.control({"event": "sync"})
    until(lambda: pauses.asked)
    for number in range(1, 4):
        for _ in range(5):
            session.generate(words(4), max_new_tokens=8)
        assert len(front_end.lines[0].sent) == 1 + number  # what was offered, and one for each pause that is over
        pauses.over.release()
        until(lambda expected=number + 1: len(pauses.asked) == expected)
    assert set(pauses.asked) == {INTERVAL} == {0.1}
    assert shown(front_end)["requests"] == 15
    assert shown(front_end)["now"] is None
    assert max(len(json.dumps(state)) for state in front_end.lines[0].sent) < 5_000
    pauses.set()
    pauses.over.release(2)


def test_a_request_under_way_is_seen(front_end, session, words):
    front_end.control({"event": "sync"})
    stream = session.stream(words(20), max_new_tokens=50)
    for _ in range(5):
        next(stream)
    until(lambda: (shown(front_end)["now"] or {}).get("tokens", 0) >= 5)
    now = shown(front_end)["now"]
    assert (now["request"], now["layer"]) == (1, now["layers"])
    stream.close()
    until(lambda: shown(front_end)["now"] is None)


def test_stop_comes_from_another_thread_and_ends_the_request(front_end, session, words):
    line = front_end.control({"event": "sync"})
    number = shown(front_end)["id"]
    stream = session.stream(words(20), max_new_tokens=5_000)
    for _ in range(3):
        next(stream)
    handler = threading.Thread(target=line.hear, args=({"event": "stop", "session": number},))
    handler.start()
    handler.join()
    assert len(list(stream)) <= 1
    assert stream.result.finish_reason == "interrupted"
    assert stream.result.text
    assert session.generate(words(4), max_new_tokens=2).finish_reason == "length"


def test_clear_waits_for_the_main_thread(front_end, session, words, later):
    session.generate(words(20), max_new_tokens=2)
    line = front_end.control({"event": "sync"})
    line.hear({"event": "clear", "session": shown(front_end)["id"]})
    until(lambda: shown(front_end)["clearing"])
    assert session.store.figures()[0]["tokens"] > 0
    (clear,) = later
    clear()
    assert session.store.figures()[0]["tokens"] == 0
    until(lambda: not shown(front_end)["clearing"])
    until(lambda: shown(front_end)["tiers"][0]["tokens"] == 0)


@pytest.mark.parametrize("said", [None, "stop", {}, {"event": "stop"}, {"event": "stop", "session": 99}, {"event": 3}])
def test_what_makes_no_sense_does_nothing(front_end, session, said):
    front_end.control(said)
    assert not shown(front_end)["stopping"]


def test_several_sessions_and_the_active_one(front_end, lab, session_of, words):
    one, two = session_of(), session_of(strategy="full")
    front_end.control({"event": "sync"})
    one.generate(words(4), max_new_tokens=2)
    until(lambda: shown(front_end, 0)["requests"] == 1)
    state = front_end.lines[0].sent[-1]
    assert [each["name"] for each in state["sessions"]] == [one.name, two.name]
    assert [each["strategy"] for each in state["sessions"]] == ["prefix", "full"]
    assert state["active"] == state["sessions"][0]["id"]
    one.close()
    until(lambda: len(front_end.lines[0].sent[-1]["sessions"]) == 1)
    assert shown(front_end)["name"] == two.name


def test_a_closed_comm_is_offered_again_once_a_cell(front_end, lab):
    lab.before_cell()
    assert len(front_end.lines) == 1
    front_end.lines[0].lose()
    assert len(front_end.lines) == 1
    lab.before_cell()
    lab.before_cell()
    assert len(front_end.lines) == 2


def test_a_broken_request_is_not_shown_as_running_in_the_next_cell(front_end, lab, session, words, monkeypatch):
    front_end.control({"event": "sync"})
    monkeypatch.setattr(session.strategy, "prefill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.generate(words(4))
    lab.before_cell()
    assert lab._board.state()["sessions"][0]["now"] is None


def test_a_comm_that_fails_is_given_up_with_a_warning(front_end, session, words, monkeypatch, caplog):
    def fail(_):
        raise OSError(9, "socket closed")

    monkeypatch.setattr(front_end.lines[0], "send", fail)
    front_end.control({"event": "sync"})
    until(lambda: "socket closed" in caplog.text)
    assert session.generate(words(4), max_new_tokens=2).text


def test_closing_leaves_nothing_behind(front_end, later, session_of):
    lab = Lab(later.append)
    lab.open()
    session = session_of()
    listeners = len(session.events._listeners)
    front_end.control({"event": "sync"})
    lab.close()
    assert front_end.lines[-1].closed
    assert front_end.targets == {}
    assert len(session.events._listeners) == listeners - 1
    until(lambda: not lab._wire._thread.is_alive())


def test_without_a_watcher_a_token_costs_next_to_nothing(front_end, lab, session):
    event = Token(session="s", request=1, token_id=1, text="x")
    ear = next(seat.ear for seat in lab._board._seats.values())
    calls = []
    sys.setprofile(lambda _frame, kind, _arg: calls.append(kind))
    try:
        ear(event)
    finally:
        sys.setprofile(None)
    assert sum(kind in {"call", "c_call"} for kind in calls) <= 6  # sys.setprofile's own is one


def test_the_roster_keeps_no_session_alive():
    class Session:
        pass

    own, told = Roster(), []
    own.watch(lambda session, is_open: told.append((type(session).__name__, is_open)))
    first, second = Session(), Session()
    own.add(first)
    own.add(second)
    assert list(own) == [first, second]
    own.remove(second)
    assert told == [("Session", True), ("Session", True), ("Session", False)]
    del first
    gc.collect()
    assert list(own) == []


def test_closed_sessions_leave_the_roster(session_of):
    session = session_of()
    assert session in list(roster)
    session.close()
    assert session not in list(roster)


def test_what_was_not_kept_and_who_waits_is_said_until_the_next_request(front_end, session, words):
    front_end.control({"event": "sync"})
    session.use_store("memory?device=1kB")
    session.generate(words(90), max_new_tokens=2)
    until(lambda: shown(front_end)["said"])
    assert shown(front_end)["said"] == ["not kept: needs 131 kB, limit 1.00 kB"]
    session.events.emit(Waiting(session=session.name, why="session is busy"))
    until(lambda: len(shown(front_end)["said"]) == 2)
    session.use_store("memory")
    session.generate(words(90), max_new_tokens=2)
    until(lambda: not shown(front_end)["said"])


WORKS = {
    "compare": lambda session, words: session.compare(words(8), "full,prefix", max_new_tokens=2, repeat=2),
    "verify": lambda session, words: session.verify("prefix"),
    "certify": lambda session, words: session.certify(
        [words(8, seed=i) for i in range(4)], max_kl=9, rate=0.5, alpha=0.5, strategies="prefix"
    ),
}


@pytest.mark.parametrize("work", WORKS)
def test_long_work_is_named_and_can_be_stopped(front_end, lab, session, words, work):
    front_end.control({"event": "sync"})
    number, seen = lab._state()["sessions"][-1]["id"], []

    def look(event):
        if isinstance(event, Advanced):
            seen.append(lab._state()["sessions"][-1])
            if event.done == 2 and not event.over:
                lab.receive({"event": "stop", "session": number})

    session.events.add(look)
    found = WORKS[work](session, words)
    assert [state["work"]["done"] for state in seen[:-1]] == [0, 1, 2]
    assert {state["work"]["work"] for state in seen[:-1]} == {work}
    assert all(state["work"]["doing"] and state["work"]["total"] >= 3 for state in seen[:-1])
    assert seen[-1]["work"] is None
    assert found.stopped.startswith("stopped after 2 of")
    assert lab._state()["sessions"][-1]["requests"] == 0
    assert not lab._state()["sessions"][-1]["stopping"]


@pytest.mark.parametrize("name", ["load smollm2", "run", "load a/b"])
def test_what_no_session_does_is_shown_and_stopped(front_end, lab, name):
    front_end.control({"event": "sync"})
    works = lambda: front_end.lines[-1].sent[-1]["works"]  # noqa: E731
    with process_work(name, 3) as work:
        work.step("first")
        work.step("second")
        until(lambda: works() and works()[0]["done"] == 1)
        assert works() == [
            {"id": work.number, "work": name, "doing": "second", "done": 1, "total": 3, "stopping": False}
        ]
        front_end.control({"event": "stop", "work": work.number + 1})
        assert not work.stopper.stopped
        control = threading.Thread(target=lambda: front_end.control({"event": "stop", "work": work.number}))
        control.start()
        control.join()
        with pytest.raises(Stopped):
            work.step("third")
        until(lambda: works()[0]["stopping"])
    until(lambda: works() == [])


def test_why_tokens_ran_is_told_of_the_request_that_is_asked_for(front_end, session, words):
    front_end.control({"event": "sync"})
    text = words(40).split()
    session.generate(" ".join(text), max_new_tokens=2)
    session.generate(" ".join([*text[:14], *reversed(text[14:18]), *text[18:]]), max_new_tokens=2)
    session.generate(words(9, seed=8317), max_new_tokens=2)  # no other test of this process asks that
    until(lambda: shown(front_end)["requests"] == 3)
    assert all("why" not in past for past in shown(front_end)["recent"])

    number = shown(front_end)["id"]
    front_end.control({"event": "why", "session": number, "request": 2})
    until(lambda: "why" in shown(front_end)["recent"][1])
    told = shown(front_end)["recent"][1]["why"]
    assert told == why_data(session.why(2).to_dict())
    assert "text differs" in told["headline"]
    assert [len(row) for row in told["rows"]] == [6] * len(told["rows"])
    assert "why" not in shown(front_end)["recent"][0]
    front_end.control({"event": "why", "session": number, "request": 3})
    until(lambda: "why" in shown(front_end)["recent"][0])
    assert shown(front_end)["recent"][0]["why"]["rows"] == []  # new text and no more: the headline says so
    for request in (99, None, "2"):
        front_end.control({"event": "why", "session": number, "request": request})
