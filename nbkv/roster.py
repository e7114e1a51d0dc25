"""Which sessions are open in this process, for those who show them. The roster keeps no session alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

Watcher = Callable[[Any, bool], None]


class Roster:
    """Sessions in the order they were opened; watchers hear ``(session, True)`` and, when it closes, ``False``."""

    def __init__(self) -> None:
        """Start empty."""
        self._open: list[weakref.ref[Any]] = []
        self._watchers: list[Watcher] = []

    def __iter__(self) -> Any:  # noqa: ANN401  (an iterator of sessions, which this floor does not know)
        """Yield the open sessions."""
        return iter([session for known in self._open if (session := known()) is not None])

    def add(self, session: object) -> None:
        """Take in a session that was opened."""
        self._open = [known for known in self._open if known() is not None]
        self._open.append(weakref.ref(session))
        self._tell(session, is_open=True)

    def remove(self, session: object) -> None:
        """Take out a session that was closed."""
        self._open = [known for known in self._open if known() not in {None, session}]
        self._tell(session, is_open=False)

    def watch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` of every session that opens or closes from now on."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell ``watcher`` no more; an unknown one is ignored."""
        self._watchers = [known for known in self._watchers if known != watcher]

    def _tell(self, session: object, *, is_open: bool) -> None:
        for watcher in tuple(self._watchers):
            watcher(session, is_open)


roster = Roster()
