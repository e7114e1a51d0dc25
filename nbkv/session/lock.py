"""One request at a time: who may ask, who is told to wait for whom, and what Ctrl-C does meanwhile."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from nbkv.errors import NbkvError, memory_limits
from nbkv.events import Bus, Waiting
from nbkv.stopping import Stopped, Stopper, interruption
from nbkv.torch_mode import usual_mode

_NO_MEMORY = "there is not enough memory: shorten the prompt, clear the store, or give it a smaller limit"
Found = TypeVar("Found")
PATIENCE_S = 3.0  # whoever waits longer is told for whom


class Pausing(Protocol):
    """A request that may pause between two pieces, while nobody reads it."""

    @property
    def idle(self) -> bool:
        """Return whether nobody makes a piece of it just now."""

    def end_if_idle(self) -> None:
        """End it if it is idle."""


class SessionLock:
    """The entrance of one session: other threads wait, a second request of the same thread is refused."""

    def __init__(self, name: str, stopper: Stopper, bus: Bus) -> None:
        """Guard the session ``name`` whose requests ``stopper`` ends; ``bus`` hears who waits."""
        self._name = name
        self._stopper = stopper
        self._bus = bus
        self._busy = threading.Lock()
        self._owner: threading.Thread | None = None
        self._pausing: Pausing | None = None

    @property
    def interrupted(self) -> bool:
        """Return whether a Ctrl-C ended the last request."""
        return self._stopper.by_signal

    @property
    def busy(self) -> bool:
        """Return whether a request is under way."""
        return self._busy.locked()

    @property
    def stopped(self) -> bool:
        """Return whether ``stop`` was called since the present request began."""
        return self._stopper.stopped and not self._stopper.by_signal

    def enter(self, pausing: Pausing | None = None) -> None:
        """Wait for the request of another thread to end, then begin one; ``pausing`` if it may pause.

        A wait that takes long is told once, in a warning and to the bus: who holds the session, and how to go on.
        """
        if self._owner is threading.current_thread():
            message = f"session {self._name!r} is busy with a request of this thread (finish or close its stream first)"
            raise NbkvError(message)
        if not self._busy.acquire(timeout=PATIENCE_S):
            self._tell()
            self._busy.acquire()
        self._owner, self._pausing = threading.current_thread(), pausing
        self._stopper.reset()

    def leave(self) -> None:
        """End the request."""
        self._owner = self._pausing = None
        self._busy.release()

    def stop(self) -> None:
        """End the request under way: at the next layer or token, or at once where nobody makes a piece of it."""
        self._stopper.stop()
        if (pausing := self._pausing) is not None:
            pausing.end_if_idle()

    def _tell(self) -> None:
        owner, pausing = self._owner, self._pausing
        if owner is None:  # it has just ended
            return
        if pausing is not None and pausing.idle:
            what, how = "a stream that nobody reads, begun by", "read it to its end, close it, or call session.stop()"
        else:
            what, how = "a request of", "session.stop() ends it"
        why = f"session {self._name!r} is busy with {what} thread {owner.name!r}: {how}"
        self._bus.emit(Waiting(session=self._name, why=why))
        warnings.warn(f"nbkv: this request waits, since {why}", stacklevel=4)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within the block torch is in its usual mode, Ctrl-C stops, and a lack of memory is one clear line."""
        with memory_limits(_NO_MEMORY), self._stopper.catching(), usual_mode():
            yield

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the lock for one request that has no partial result: stopped, it leaves nothing behind."""
        self.enter()
        try:
            with self.working():
                yield
        except Stopped:
            if self.interrupted:
                raise interruption(None, "nothing was kept of it") from None
            message = "stopped before it was done; nothing was kept of it"
            raise NbkvError(message) from None
        finally:
            self.leave()

    def ended(self, found: Found) -> Found:
        """Return what long work has found; where a Ctrl-C ended it, raise ``KeyboardInterrupt`` that has it."""
        if self.interrupted:
            raise interruption(found, getattr(found, "stopped", "") or "it had just ended") from None
        return found
