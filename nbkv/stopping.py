"""Stopping a request politely: a flag, set by Ctrl-C or another thread, read between layers and tokens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """Raised at the next safe point after the flag was set."""


class Stopper:
    """The flag of one session. ``by_signal`` tells a Ctrl-C from ``stop()``."""

    def __init__(self) -> None:
        """Start with the flag down."""
        self._flag = threading.Event()
        self.by_signal = False

    def reset(self) -> None:
        """Put the flag down, for a new request."""
        self._flag.clear()
        self.by_signal = False

    def stop(self) -> None:
        """Set the flag; safe from any thread."""
        self._flag.set()

    @property
    def stopped(self) -> bool:
        """Return whether the flag is set."""
        return self._flag.is_set()

    def check(self) -> None:
        """Raise ``Stopped`` if the flag is set."""
        if self._flag.is_set():
            raise Stopped

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Within the block, in the main thread, the first SIGINT sets the flag; a second one raises at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.getsignal(signal.SIGINT)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._flag.is_set() and self.by_signal:
                signal.signal(signal.SIGINT, former)
                signal.default_int_handler(number, frame)
            self.by_signal = True
            self._flag.set()

        signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)
