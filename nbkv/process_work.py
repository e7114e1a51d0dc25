"""Long work that no session does, such as loading a model or a sweep: told as a session's is, stopped from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

from nbkv.events import Advanced, Bus
from nbkv.stopping import Stopper, quiet

LOADING_STEPS = 4  # of a model: weights, tokenizer, fingerprint, self-test; reading weights adds its own
bus = Bus()  # who shows long work listens here too
_current: ContextVar[ProcessWork | None] = ContextVar("nbkv_process_work", default=None)
_numbers = count(1)
_running: list[ProcessWork] = []


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
        return f"stopped after {self.done} of {self.total} steps ({self.work}: {self.doing})"


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


def running() -> list[ProcessWork]:
    """Return the works under way."""
    return list(_running)
