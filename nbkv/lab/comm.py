"""The comm to the panel: states go out from a thread of its own, at most ten a second, the last one always."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import comm

TARGET = "nbkv"
INTERVAL = 0.1  # seconds between two states
_log = logging.getLogger(__name__)


class StateComm:
    """Sends ``state()`` after ``wake``, once somebody has answered; full states, so that a lost one does not matter."""

    def __init__(self, state: Callable[[], dict[str, Any]], receive: Callable[[Any], None]) -> None:
        """Connect nothing yet; ``receive`` gets what the front end says on this comm."""
        self._state, self._receive = state, receive
        self._comm: Any = None
        self._news, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.heard = False  # by somebody who answered

    def open(self) -> None:
        """Offer the comm to the front end, unless it has one; an unknown target is closed by the front end."""
        if self._comm is not None:
            return
        self._comm = comm.create_comm(target_name=TARGET, data=self._state())
        self._comm.on_msg(lambda message: self._receive(message["content"]["data"]))
        self._comm.on_close(self._lost)

    def answered(self) -> None:
        """Somebody listens: send the state now and whenever it changes."""
        self.heard = True
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nbkv-lab", daemon=True)
                self._thread.start()
        self.wake()

    def wake(self) -> None:
        """There is something new to send; from any thread."""
        self._news.set()

    def close(self) -> None:
        """Send no more and tell the front end so."""
        self._ended.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        if self._comm is not None:
            self._comm.close()
        self._lost()

    def _lost(self, _: object = None) -> None:
        self._comm, self.heard = None, False

    def _run(self) -> None:
        while not self._ended.is_set():
            self._news.wait()
            self._news.clear()
            self._send()
            self._ended.wait(INTERVAL)

    def _send(self) -> None:
        line = self._comm
        if line is None or self._ended.is_set():
            return
        try:
            line.send(self._state())
        except Exception as error:  # noqa: BLE001  (a panel may not break a run; the kernel may be shutting down)
            _log.warning("the panel is told no more: %s: %s", type(error).__name__, error)
            self._lost()
