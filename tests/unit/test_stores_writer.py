from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future

import pytest
from waiting import PATIENCE_S, until

from nbkv.stores.writer import BackgroundWriter, SharedWork


def test_work_is_done_in_its_order_by_one_thread():
    writer, done = BackgroundWriter(idle_s=PATIENCE_S), []
    for number in range(50):
        writer.add(lambda number=number: done.append((number, threading.current_thread())))
    writer.flush()
    assert [number for number, _ in done] == list(range(50))
    assert {thread for _, thread in done} == {writer._thread}
    assert writer._thread.name == "nbkv-store"


def test_a_thread_without_work_ends_and_another_begins():
    writer, done = BackgroundWriter(idle_s=0.01), []
    for number in range(3):
        writer.add(lambda number=number: done.append(number))
        until(lambda: writer._thread is None)
    assert done == [0, 1, 2]


class Waiters(threading.Condition):
    """A condition that knows which threads have waited for it."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def wait(self, timeout=None):
        self.threads.add(threading.current_thread())
        return super().wait(timeout)


def test_who_adds_more_than_may_wait_waits():
    waiters, go, begun = Waiters(), threading.Event(), threading.Event()
    writer = BackgroundWriter(most_bytes=10, _changed=waiters)
    writer.add(lambda: begun.set() or go.wait(PATIENCE_S), 8)
    assert begun.wait(PATIENCE_S)
    writer.throttle()
    writer.add(lambda: None, 8)
    waiting = threading.Thread(target=writer.throttle)
    waiting.start()
    until(lambda: waiting in waiters.threads or not waiting.is_alive())
    assert waiting in waiters.threads
    go.set()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_flush_from_the_writer_itself_does_not_wait_for_itself():
    writer = BackgroundWriter()
    writer.add(writer.flush)
    writer.flush()


@pytest.mark.parametrize("fails", [False, True])
def test_work_under_way_is_shared_with_its_result_or_error(fails, monkeypatch):
    """The first of four threads works until the others have asked: they wait for what it finds."""
    shared, others, calls, results = SharedWork(), threading.Semaphore(0), [], []

    class Awaited(Future):
        def result(self, timeout=None):
            others.release()
            return super().result(timeout)

    def work():
        calls.append(1)
        if len(calls) > 1:
            others.release(99)  # who works waits for nobody
        assert all(others.acquire(timeout=PATIENCE_S) for _ in range(3))
        if fails:
            raise ValueError
        return "done"

    def ask():
        try:
            shared.do("name", work, results.append)
        except ValueError as error:
            results.append(type(error))

    monkeypatch.setattr("nbkv.stores.writer.Future", Awaited)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [ValueError if fails else "done"] * 4
    assert len(calls) == 1
    shared.do("name", lambda: "again", results.append)
    assert results[-1] == "again"


@pytest.mark.parametrize("breaks", ["nobody", "the others", "the first"])
def test_who_did_the_work_goes_on_when_all_have_used_it(breaks):
    """Its result may lie in memory of its own: the others are let go one after the other, and the first waits."""
    shared, using, order = SharedWork(), threading.Semaphore(0), []
    let = [threading.Event() for _ in range(2)]

    def use(who):
        def used(_):
            if who != "first":
                using.release()
                assert let[who].wait(PATIENCE_S)
            order.append(who)
            if breaks == ("the first" if who == "first" else "the others"):
                raise ValueError

        return used

    def work():
        for thread in threads[1:]:
            thread.start()
        until(lambda: [each.users for each in shared._under_way.values()] == [2])
        return "done"

    def ask(who):
        with contextlib.suppress(ValueError):
            shared.do("name", work, use(who))
        order.append(f"{who} went on")

    threads = [threading.Thread(target=ask, args=(who,)) for who in ("first", 0, 1)]
    threads[0].start()
    assert all(using.acquire(timeout=PATIENCE_S) for _ in range(2))
    assert "first went on" not in order
    let[0].set()
    threads[1].join()
    assert "first went on" not in order
    let[1].set()
    for thread in threads:
        thread.join()
    assert order.index("first went on") > max(order.index(0), order.index(1))
    assert not shared._under_way
