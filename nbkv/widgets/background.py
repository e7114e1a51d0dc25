"""What a view asks its session for runs in a thread: the handler of a message may hold up neither cells nor others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbkv.result import Result
    from nbkv.session.session import Session
    from nbkv.session.stream import Stream

BUSY = "the session is busy with a request: wait for it to end or stop it, then run again"


class BackgroundRun:
    """One request at a time; ``text`` is the answer so far, ``said`` what there is to say about the last one."""

    def __init__(self, session: Session, touch: Callable[[], None]) -> None:
        """Call ``touch`` whenever there is something new."""
        self._session, self._touch = session, touch
        self._running = threading.Lock()
        self.said = self.text = ""

    @property
    def running(self) -> bool:
        """Return whether a request is under way."""
        return self._running.locked()

    def begin(self, work: Callable[[], None]) -> None:
        """Do ``work`` in a thread, or say that the session is busy."""
        if self._session.busy or not self._running.acquire(blocking=False):
            self.said = BUSY
            return
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def follow(self, stream: Stream) -> Result:
        """Read ``stream`` to its end and return the Result."""
        for piece in stream:
            self.text += piece
            self._touch()
        assert stream.result is not None  # noqa: S101  (an iterated stream has one)
        return stream.result

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (a thread's error has nowhere else to go)
            self.said = str(error) or type(error).__name__
        finally:
            self.text = ""
            self._running.release()
            self._touch()
