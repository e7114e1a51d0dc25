"""Who waits for a session, who is told of it, and how a stream that nobody reads lets go."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import pytest
from waiting import PATIENCE_S

from nbkv.errors import NbkvError
from nbkv.events import Bus, Waiting
from nbkv.session import lock as module
from nbkv.session.lock import SessionLock
from nbkv.stopping import Stopper


class InThread:
    """What ``work`` gives, from a thread of its own; ``told`` is set with the first event that somebody waits."""

    def __init__(self, session, work):
        self.told, self.events, self.found = threading.Event(), [], []
        session.events.add(self._hear)
        self._thread = threading.Thread(target=lambda: self.found.append(work()), name="second")
        self._thread.start()

    def _hear(self, event):
        if isinstance(event, Waiting):
            self.events.append(event)
            self.told.set()

    def result(self):
        self._thread.join()
        return self.found[0]


@pytest.fixture
def impatient(monkeypatch):
    """Whoever has to wait at all is told at once."""
    monkeypatch.setattr(module, "PATIENCE_S", 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def half_read(session, text, **options):
    stream = session.stream(text, max_new_tokens=50, **options)
    next(stream)
    return stream


ASKED = {
    "generate": lambda session, text: session.generate(text, max_new_tokens=3).text,
    "stream": lambda session, text: "".join(session.stream(text, max_new_tokens=3)),
    "chunk": lambda session, text: session.chunk(text).name,
    "compare": lambda session, text: len(session.compare(text, ["prefix"], repeat=1, max_new_tokens=2).to_frame()),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("end", ["stop", "close", "read on", "close the session's store"])
def test_a_waiter_is_told_who_holds_the_session_and_goes_on_when_it_ends(session_of, words, impatient, asked, end):
    session, text = session_of(), words(20)
    expected = asked(session_of(), text)
    stream = half_read(session, words(30, seed=1))
    waiter = InThread(session, lambda: asked(session, text))
    assert waiter.told.wait(PATIENCE_S)
    (told,) = waiter.events
    assert "a stream that nobody reads, begun by thread 'MainThread'" in told.why
    assert "session.stop()" in told.why
    assert [told.why in str(warning.message) for warning in impatient] == [True]

    if end == "stop":
        session.stop()
    elif end == "close":
        stream.close()
    elif end == "read on":
        list(stream)
    else:
        session.store.clear()
        session.stop()
    assert waiter.result() == expected
    assert stream.result.finish_reason == ("length" if end == "read on" else "interrupted")


def test_a_request_that_runs_is_named_as_one(session_of, words, impatient):
    session = session_of()
    running, go_on = threading.Event(), threading.Event()

    def criterion(ids, scores, **_):
        running.set()
        go_on.wait(PATIENCE_S)
        return False

    first = InThread(session, lambda: session.generate(words(9), max_new_tokens=2, stopping_criteria=[criterion]))
    assert running.wait(PATIENCE_S)
    second = InThread(session, lambda: session.generate(words(9), max_new_tokens=2))
    assert second.told.wait(PATIENCE_S)
    go_on.set()

    assert "a request of thread 'second': session.stop() ends it" in second.events[0].why
    assert first.result().token_ids == second.result().token_ids


def test_nobody_is_told_of_a_session_that_is_free(session_of, words, impatient):
    session, heard = session_of(), []
    session.events.add(heard.append)
    for _ in range(3):
        session.generate(words(9), max_new_tokens=2)

    assert not impatient
    assert not [event for event in heard if isinstance(event, Waiting)]


@pytest.mark.parametrize("where", ["this thread", "another thread", "a callback"])
def test_stop_ends_a_stream_that_nobody_reads(session_of, words, where):
    session = session_of()
    stops = []

    def criterion(ids, scores, **_):
        if where == "a callback" and not stops:
            stops.append(session.stop())
        return False

    stream = half_read(session, words(30), stopping_criteria=[criterion])
    if where == "this thread":
        session.stop()
    elif where == "another thread":
        InThread(session, session.stop).result()

    assert not session.busy
    assert stream.result.finish_reason == "interrupted"
    assert session.last is stream.result
    assert list(stream) == []
    assert session.generate(words(30), max_new_tokens=2).tokens.reused == 30


@pytest.mark.parametrize("act", ["close the session", "leave its block", "stop twice"])
def test_a_half_read_stream_ends_with_its_session(session_of, words, act):
    session = session_of()
    stream = half_read(session, words(30))
    if act == "close the session":
        session.close()
    elif act == "leave its block":
        with session:
            pass
    else:
        session.stop()
        session.stop()

    assert stream.result.finish_reason == "interrupted"
    assert list(stream) == []


@pytest.mark.parametrize("by", ["another thread", "a callback"])
def test_closing_while_a_piece_is_made_ends_the_stream_behind_it(session_of, words, by):
    session, streams = session_of(), []

    def criterion(ids, scores, **_):
        if by == "a callback":
            streams[0].close()
        else:
            InThread(session, streams[0].close).result()
        return False

    streams.append(session.stream(words(30), max_new_tokens=50, stopping_criteria=[criterion]))
    assert next(streams[0])

    assert len(streams[0].result.token_ids) == 1
    assert not session.busy
    assert list(streams[0]) == []


def test_a_stream_that_is_closed_while_it_waits_never_begins(session_of, words, impatient):
    session = session_of()
    first, second = half_read(session, words(30)), session.stream(words(20))
    waiter = InThread(session, lambda: list(second))
    assert waiter.told.wait(PATIENCE_S)
    second.close()
    first.close()

    assert waiter.result() == []
    assert second.result is None
    assert not session.busy


def test_the_thread_that_holds_it_is_refused_even_after_others_came_and_went():
    lock = SessionLock("a", Stopper(), Bus())
    thread = threading.Thread(target=lock.enter)
    thread.start()
    thread.join()
    free = []
    later = threading.Thread(target=lambda: free.append(lock.busy))  # it may have the identity of the first
    later.start()
    later.join()
    assert free == [True]
    lock.leave()
    lock.enter()
    with pytest.raises(NbkvError, match="busy with a request of this thread"):
        lock.enter()


def test_python_ends_quietly_whatever_was_left_half_read():
    script = """if True:
        import nbkv
        for name in ("read", "in a ring", "not begun"):
            session = nbkv.load("tiny", name=name)
            stream = session.stream("Where is the key ?")
            if name != "not begun":
                next(stream)
            if name == "in a ring":
                session.ring = [session, stream]
            globals()[name] = stream
        """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
