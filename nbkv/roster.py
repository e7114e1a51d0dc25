"""What is open and under way in this process, for those who show it: sessions, and long work that no session does.

The roster keeps no session alive. Work such as loading a model, or a sweep, is told and stopped as a session's is.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from pathlib import PurePath
from typing import Any

from nbkv.events import Advanced, Bus
from nbkv.stopping import Stopper, quiet

Watcher = Callable[[Any, bool], None]
LOADING_STEPS = 4  # of a model: weights, tokenizer, fingerprint, self-test; reading weights adds its own
bus = Bus()  # who shows long work listens here too
_current: ContextVar[ProcessWork | None] = ContextVar("nbkv_process_work", default=None)
_numbers = count(1)
_running: list[ProcessWork] = []


class Roster:
    """Sessions in the order they were opened; watchers hear ``(session, True)`` and, when it closes, ``False``."""

    def __init__(self) -> None:
        """Start empty."""
        self._open: list[weakref.ref[Any]] = []
        self._watchers: list[Watcher] = []

    def __iter__(self) -> Any:  # noqa: ANN401  (an iterator of sessions, which this floor does not know)
        """Yield the open sessions."""
        return iter([session for known in self._open if (session := known()) is not None])

    def add(self, session: object) -> None:
        """Take in a session that was opened."""
        self._open = [known for known in self._open if known() is not None]
        self._open.append(weakref.ref(session))
        self._tell(session, is_open=True)

    def remove(self, session: object) -> None:
        """Take out a session that was closed."""
        self._open = [known for known in self._open if known() not in {None, session}]
        self._tell(session, is_open=False)

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of every session that opens or closes from now on."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` no more; an unknown one is ignored."""
        self._watchers = [known for known in self._watchers if known != watcher]

    def _tell(self, session: object, *, is_open: bool) -> None:
        for watcher in tuple(self._watchers):
            watcher(session, is_open)


roster = Roster()


class ProcessWork:
    """One long work of this process: ``step`` tells what begins now, and ends it where somebody has called ``stop``."""

    def __init__(self, work: str, total: int, *, told: bool) -> None:
        """Use ``process_work`` instead."""
        self.work, self.total, self.done, self.doing = work, total, 0, ""
        self.number = next(_numbers)
        self.stopper = Stopper()
        self.on_stop: Callable[[], None] | None = None  # called where a stop shall not wait for the next step
        self._told, self._lock = told, threading.Lock()

    def step(self, doing: str, *, steps: int = 1) -> None:
        """Begin what ``doing`` names, ``steps`` after what was told last; raises ``Stopped`` after ``stop``."""
        with self._lock:
            self.done += steps if self.doing else 0
            self.total = max(self.total, self.done)
            self.doing = doing
        self.tell()
        self.stopper.check()

    def expect(self, steps: int) -> None:
        """Count so many steps more than were known of."""
        with self._lock:
            self.total += steps

    def tell(self, *, over: bool = False) -> None:
        """Let whoever listens hear how far it is."""
        if self._told and bus.heard:
            bus.emit(Advanced(work=self.work, done=self.done, total=self.total, doing=self.doing, over=over))

    def stop(self) -> None:
        """End it at its next step, from any thread."""
        self.stopper.stop()
        if self.on_stop is not None:
            self.on_stop()

    def to_dict(self) -> dict[str, Any]:
        """Return how far it is, as JSON-able data."""
        about = {"id": self.number, "work": self.work, "doing": self.doing, "done": self.done, "total": self.total}
        return about | {"stopping": self.stopper.stopped}

    @property
    def reached(self) -> str:
        """Return how far it has come, in words."""
        return f"stopped after {self.done} of {self.total} step{'s' * (self.total != 1)} ({self.work}: {self.doing})"


@contextmanager
def process_work(work: str, total: int, *, told: bool = True) -> Iterator[ProcessWork]:
    """Give what is under way here already, or a new work of about ``total`` steps, which is over with the block.

    Nobody hears of one that is not ``told``. A Ctrl-C in it is one quiet line that says how far it came.
    """
    if (outer := _current.get()) is not None:
        yield outer
        return
    made = ProcessWork(work, total, told=told)
    _running.append(made)
    token = _current.set(made)
    try:
        yield made
        made.done = made.total
    except KeyboardInterrupt as stop:
        raise quiet(stop, f"{stop}" or made.reached) from None
    finally:
        _current.reset(token)
        _running.remove(made)
        made.tell(over=True)


def loading(model: object) -> str:
    """Return what the loading of ``model``, a name, path or object, is called: of a path its last part."""
    name = str(model) if isinstance(model, (str, PurePath)) else type(model).__name__
    return f"load {name.rstrip('/').rpartition('/')[2] or name}"


def running() -> list[ProcessWork]:
    """Return the works under way."""
    return list(_running)
