"""Stopping a request politely: a flag, set by Ctrl-C or another thread, read between layers and tokens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """Raised at the next safe point after the flag was set."""


def interruption(found: object, told: str) -> KeyboardInterrupt:
    """Return what a Ctrl-C raises: ``result`` is what had been ``found``, and a notebook shows one line with ``told``.

    IPython asks an exception for ``_render_traceback_``: where exactly it struck is no news to whoever pressed the key.
    """
    stop = KeyboardInterrupt(told)
    stop.result = found  # type: ignore[attr-defined]
    return quiet(stop, told)


def quiet(stop: KeyboardInterrupt, told: str) -> KeyboardInterrupt:
    """Let a notebook show ``stop`` as one line that says ``told``."""
    line = f"KeyboardInterrupt: {told}" if told else "KeyboardInterrupt"
    stop._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
    return stop


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
