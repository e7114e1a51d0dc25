"""One request at a time: who may ask, what Ctrl-C does meanwhile, and how the device's own errors are worded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from nbkv.errors import NbkvError, OutOfMemory
from nbkv.stopping import Stopped, Stopper, interruption

Found = TypeVar("Found")


class SessionLock:
    """The entrance of one session: other threads wait, a second request of the same thread is refused."""

    def __init__(self, name: str, stopper: Stopper) -> None:
        """Guard the session ``name`` whose requests ``stopper`` ends."""
        self._name = name
        self._stopper = stopper
        self._busy = threading.Lock()
        self._owner: int | None = None

    @property
    def interrupted(self) -> bool:
        """Return whether a Ctrl-C ended the last request."""
        return self._stopper.by_signal

    @property
    def busy(self) -> bool:
        """Return whether a request is under way."""
        return self._busy.locked()

    def enter(self) -> None:
        """Wait for the request of another thread to end, then begin one."""
        if self._owner == threading.get_ident():
            message = f"session {self._name!r} is busy with a request of this thread (finish or close its stream first)"
            raise NbkvError(message)
        self._busy.acquire()
        self._owner = threading.get_ident()
        self._stopper.reset()

    def leave(self) -> None:
        """End the request."""
        self._owner = None
        self._busy.release()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within the block Ctrl-C sets the stop flag, and running out of device memory is one clear line."""
        try:
            with self._stopper.catching():
                yield
        except torch.OutOfMemoryError as error:
            message = "the device is out of memory: shorten the prompt, clear the store, or give it a smaller limit"
            raise OutOfMemory(message) from error

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
