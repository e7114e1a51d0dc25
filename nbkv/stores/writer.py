"""Takes K/V to the tiers behind a request's back: one thread, one entry after the other, as many bytes as may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")
_MOST_BYTES = 2**30  # of K/V that wait to be written


@dataclass(eq=False)
class BackgroundWriter:
    """Runs what is given to ``add``, in that order.

    The thread begins with the first piece of work and ends when there has been none for a while, so that a store that
    is forgotten holds no thread.
    """

    most_bytes: int = _MOST_BYTES
    idle_s: float = 5.0
    _waiting: deque[tuple[Callable[[], object], int]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _nbytes: int = 0
    _running: bool = False
    _thread: threading.Thread | None = None

    def add(self, work: Callable[[], object], nbytes: int = 0) -> None:
        """Have ``work``, which holds ``nbytes``, done in its turn; never waits."""
        with self._changed:
            self._waiting.append((work, nbytes))
            self._nbytes += nbytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nbkv-store", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def throttle(self) -> None:
        """Wait until no more bytes wait than may."""
        with self._changed:
            self._changed.wait_for(lambda: self._nbytes <= self.most_bytes)

    def flush(self) -> None:
        """Wait until everything added so far is done."""
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._running)

    def forget(self) -> None:
        """Drop what has not begun."""
        with self._changed:
            self._waiting.clear()
            self._nbytes = 0
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._waiting), timeout=self.idle_s):
                    self._thread = None
                    return
                work, nbytes = self._waiting.popleft()
                self._running = True
            try:
                work()
            finally:
                del work
                with self._changed:
                    self._running = False
                    self._nbytes = max(0, self._nbytes - nbytes)
                    self._changed.notify_all()


class WorkUnderWay(Generic[T]):
    """The ``result`` of work that one thread does, and how many others will use it or are at that."""

    def __init__(self) -> None:
        """Nobody else has asked yet."""
        self.result: Future[T] = Future()
        self.users = 0


class SharedWork(Generic[K, T]):
    """Work that several threads want at once is done by the first of them; the others use its result."""

    def __init__(self) -> None:
        """Start without any."""
        self._changed = threading.Condition()
        self._under_way: dict[K, WorkUnderWay[T]] = {}

    def do(self, name: K, work: Callable[[], T], use: Callable[[T], object]) -> None:
        """Have ``use`` called with what ``work`` returns here, or to the thread that is at it under the same ``name``.

        The thread that did the work goes on when all have used it: its result may lie in memory of its own.
        """
        with self._changed:
            theirs = self._under_way.get(name)
            if theirs is None:
                mine = self._under_way[name] = WorkUnderWay[T]()
            else:
                theirs.users += 1
        if theirs is None:
            self._do(name, mine, work, use)
            return
        try:
            use(theirs.result.result())
        finally:
            with self._changed:
                theirs.users -= 1
                self._changed.notify_all()

    def _do(self, name: K, mine: WorkUnderWay[T], work: Callable[[], T], use: Callable[[T], object]) -> None:
        try:
            mine.result.set_result(work())
        except BaseException as error:
            mine.result.set_exception(error)
            raise
        finally:
            with self._changed:
                del self._under_way[name]
        try:
            use(mine.result.result())
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not mine.users)
