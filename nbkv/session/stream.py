"""An answer as it is made: pieces of text to iterate over, and the Result at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Self, TypeVar

from nbkv.inference.run import RequestRun
from nbkv.result import Result
from nbkv.session.lock import SessionLock

T = TypeVar("T")


class Stream:
    """The text of an answer, piece by piece; ``result`` is there when it ends, is closed or is interrupted."""

    def __init__(self, run: RequestRun, lock: SessionLock, on_end: Callable[[Result], None]) -> None:
        """Use ``Session.stream`` instead; ``on_end`` is given the Result."""
        self._run, self._lock, self._on_end = run, lock, on_end
        self._pieces: Generator[str] | None = None
        self._done = False

    @property
    def result(self) -> Result | None:
        """Return the Result once the answer has ended."""
        return self._run.result

    @property
    def markdown(self) -> bool:
        """Return whether a chat model writes the answer."""
        return self._run.prompt.chat

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece of text; a Ctrl-C raises ``KeyboardInterrupt`` with ``.result``."""
        pieces = self._begun()
        piece = self._guarded(lambda: next((piece for piece in pieces if piece), None))
        if piece is None:
            self._over()
            raise StopIteration
        return piece

    def exhaust(self) -> Result:
        """Run to the end and return the Result; Ctrl-C is caught all the while, since nobody else runs meanwhile."""
        pieces = self._begun()

        def drain() -> None:
            for _ in pieces:
                pass

        self._guarded(drain)
        self._over()
        assert self.result is not None  # noqa: S101
        return self.result

    def _begun(self) -> Generator[str]:
        if self._done:
            raise StopIteration
        if self._pieces is None:
            self._lock.enter()
            self._pieces = self._run.pieces()
        return self._pieces

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            with self._lock.working():
                return work()
        except KeyboardInterrupt as error:  # the second one: a store operation may have been cut in two
            self._run.ctx.store.clear()
            self._end()
            raise self._interrupt(error) from None
        except BaseException:
            self._end()
            raise

    def _over(self) -> None:
        self._end()
        if self._lock.interrupted:
            raise self._interrupt(KeyboardInterrupt()) from None

    def close(self) -> None:
        """End the answer here; what was decoded stays in ``result``."""
        if not self._done and self._pieces is not None:
            self._pieces.close()
            self._end()
        self._done = True

    def __del__(self) -> None:
        """Close an abandoned stream, so that the session is free again."""
        self.close()

    def _end(self) -> None:
        self._done = True
        if self.result is not None:
            self._on_end(self.result)
        self._lock.leave()

    def _interrupt(self, error: KeyboardInterrupt) -> KeyboardInterrupt:
        error.result = self.result  # type: ignore[attr-defined]
        return error
