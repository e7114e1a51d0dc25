"""An answer as it is made: pieces of text to iterate over, and the Result at the end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from typing import Self, TypeVar

from nbkv.inference.run import RequestRun
from nbkv.result import Result
from nbkv.session.lock import SessionLock
from nbkv.show.units import plural
from nbkv.stopping import interruption

T = TypeVar("T")


class Stream:
    """The text of an answer, piece by piece; ``result`` is there when it ends, is closed, stopped or interrupted.

    It holds its session from the first piece on. Whichever thread makes a piece holds ``_making``, so that another one
    can end the stream between two pieces, and only there.
    """

    def __init__(self, run: RequestRun, lock: SessionLock, on_end: Callable[[Result], None]) -> None:
        """Use ``Session.stream`` instead; ``on_end`` is given the Result."""
        self._run, self._lock, self._on_end = run, lock, on_end
        self._pieces: Generator[str] | None = None
        self._making = threading.Lock()
        self._done = self._unwanted = False

    @property
    def idle(self) -> bool:
        """Return whether nobody makes a piece of it just now."""
        return not self._making.locked()

    @property
    def result(self) -> Result | None:
        """Return the Result once the answer has ended."""
        return self._run.result

    @property
    def markdown(self) -> bool:
        """Return whether a chat model writes the answer."""
        return self._run.prompt.chat

    def __repr__(self) -> str:
        """Return whether it runs, and how far it came."""
        if self.result is not None:
            tokens = plural(len(self.result.token_ids), "token")
            return f"<Stream: ended ({self.result.finish_reason}), {tokens}; see .result>"
        return f"<Stream: {'running' if self._pieces else 'not begun: iterate it'}>"

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece of text; a Ctrl-C raises ``KeyboardInterrupt`` with ``.result``."""
        piece = self._made(lambda pieces: next((piece for piece in pieces if piece), None))
        if piece is None:
            raise StopIteration
        return piece

    def exhaust(self) -> Result:
        """Run to the end and return the Result; Ctrl-C is caught all the while, since nobody else runs meanwhile."""

        def drain(pieces: Generator[str]) -> None:
            for _ in pieces:
                pass

        self._made(drain)
        assert self.result is not None  # noqa: S101
        return self.result

    def close(self) -> None:
        """End the answer here; what was decoded stays in ``result``. While a piece is made, it ends behind that."""
        self._unwanted = True
        self.end_if_idle()

    def end_if_idle(self) -> None:
        """End the answer unless a piece of it is being made."""
        if self._making.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._making.release()

    def __del__(self) -> None:
        """Close an abandoned stream, so that the session is free again; while Python ends, nobody asks it any more."""
        if not sys.is_finalizing():
            self.close()

    def _made(self, work: Callable[[Generator[str]], T | None]) -> T | None:
        """Return what ``work`` makes of the pieces, None if that is the end of them."""
        with self._making:
            made = self._guarded(work, self._begun())
            by_signal = self._lock.interrupted
            if made is None:
                self._end()
        if made is None and by_signal:
            raise self._interrupt() from None
        if self._unwanted or self._lock.stopped:  # said while the piece was made; the next may never be asked for
            self.end_if_idle()
        return made

    def _begun(self) -> Generator[str]:
        if self._done:
            raise StopIteration
        if self._pieces is None:
            self._lock.enter(self)
            if self._unwanted:  # closed while it waited
                self._lock.leave()
                raise StopIteration
            self._pieces = self._run.pieces()
        return self._pieces

    def _guarded(self, work: Callable[[Generator[str]], T | None], pieces: Generator[str]) -> T | None:
        try:
            with self._lock.working():
                return work(pieces)
        except KeyboardInterrupt:  # the second one: a store operation may have been cut in two
            self._run.ctx.store.clear()
            self._end()
            raise self._interrupt() from None
        except BaseException:
            self._end()
            raise

    def _close(self) -> None:
        """End the answer; whoever calls this holds ``_making``."""
        if not self._done and self._pieces is not None:
            try:
                with self._lock.working():
                    self._pieces.close()
            finally:
                self._end()
        self._done = True

    def _end(self) -> None:
        self._done = True
        if self.result is not None:
            self._on_end(self.result)
        self._lock.leave()

    def _interrupt(self) -> KeyboardInterrupt:
        result = self.result
        told = (
            "stopped before the first token"
            if result is None
            else f"stopped after {plural(len(result.token_ids), 'token')}"
        )
        return interruption(result, told)
