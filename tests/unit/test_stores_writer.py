from __future__ import annotations

import threading

import pytest

from nbkv.stores.writer import BackgroundWriter, SharedWork


def test_work_is_done_in_its_order_by_one_thread_that_ends():
    writer, done = BackgroundWriter(idle_s=0.01), []
    for number in range(50):
        writer.add(lambda number=number: done.append((number, threading.current_thread().name)))
    writer.flush()
    assert [number for number, _ in done] == list(range(50))
    assert {name for _, name in done} == {"nbkv-store"}
    while writer._thread is not None:
        pass
    writer.add(lambda: done.append(None))
    writer.flush()
    assert done[-1] is None


def test_who_adds_more_than_may_wait_waits():
    writer, go, begun = BackgroundWriter(most_bytes=10), threading.Event(), threading.Event()
    writer.add(lambda: begun.set() or go.wait(20), 8)
    begun.wait(20)
    writer.throttle()
    writer.add(lambda: None, 8)
    waiting = threading.Thread(target=writer.throttle)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    go.set()
    waiting.join(20)
    assert not waiting.is_alive()


def test_flush_from_the_writer_itself_does_not_wait_for_itself():
    writer = BackgroundWriter()
    writer.add(writer.flush)
    writer.flush()


@pytest.mark.parametrize("fails", [False, True])
def test_work_under_way_is_shared_with_its_result_or_error(fails):
    shared, go, calls, results = SharedWork(), threading.Event(), [], []

    def work():
        calls.append(1)
        go.wait(20)
        if fails:
            raise ValueError
        return "done"

    def ask():
        try:
            results.append(shared.do("name", work))
        except ValueError as error:
            results.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not calls:
        pass
    go.set()
    for thread in threads:
        thread.join()
    assert results == [ValueError if fails else "done"] * 4
    assert len(calls) <= 4
    assert shared.do("name", lambda: "again") == "again"
