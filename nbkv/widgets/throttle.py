"""How often a view is told something: at most so often, and always of the last state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

INTERVAL = 0.1  # seconds between two updates
SHARE = 0.02  # of the time may go into updates: on a busy machine they are fewer
LONGEST = 0.5  # seconds between two updates all the same


class Pace:
    """Calls ``send`` at most once every ``interval`` seconds; what is touched in between is sent at its end.

    ``touch`` may be called from any thread, and while its caller holds locks: it costs next to nothing and ``send``
    runs in a thread of its own, never twice at a time.
    """

    def __init__(self, send: Callable[[], None], interval: float = INTERVAL) -> None:
        """Start with nothing to send."""
        self._send, self._interval = send, interval
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._due = False
        self._next = 0.0

    def touch(self) -> None:
        """Say that there is something new."""
        if not self._due and self._first():
            self._later()

    def pass_by(self, send: Callable[[], None]) -> None:
        """Call ``send`` in the caller's own thread if it is time, else do nothing: until a ``touch`` ends what goes on.

        This spares a busy process the change of threads. The caller may hold no lock that ``send`` needs.
        """
        if not self._due and time.monotonic() >= self._next and self._first():
            self._now(send)

    def _first(self) -> bool:
        with self._lock:
            due, self._due = self._due, True
            return not due

    def _later(self) -> None:
        wait = self._next - time.monotonic()
        timer = threading.Timer(max(0.0, wait), self._now if wait <= 0 else self._later)
        timer.daemon = True
        timer.start()

    def _now(self, send: Callable[[], None] | None = None) -> None:
        with self._sending:
            with self._lock:
                self._next = time.monotonic() + self._interval
                self._due = False  # what comes from here on may not be in what is sent now
            begun = time.monotonic()
            (send or self._send)()
            ended = time.monotonic()
            self._next = max(self._next, ended + min(LONGEST, (ended - begun) / SHARE))
