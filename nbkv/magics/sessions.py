"""The sessions a notebook has open, by name: those that magics loaded, and those that Python made; one is current."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from nbkv.errors import UnknownName, closest
from nbkv.roster import LOADING_STEPS, loading, process_work, roster

if TYPE_CHECKING:
    from nbkv.session.session import Session

_loaded: WeakSet[Session] = WeakSet()  # by the magics of whatever shell


class Sessions:
    """Opens, finds, switches and closes sessions.

    What ``nbkv.load`` made in Python is found like the rest, but belongs to Python: it is kept alive by whoever holds
    it, and closed here only by its name.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._open: dict[str, Session] = {}
        self._current = ""

    @property
    def names(self) -> list[str]:
        """The names of the open sessions: those loaded here in the order they came, then those that Python made."""
        return list(self._known())

    @property
    def current_name(self) -> str:
        """The name of the current session, empty if there is none: the one last switched to, else the newest."""
        known = self._known()
        return self._current if self._current in known else next(reversed(known), "")

    @property
    def current(self) -> Session:
        """The current session; raises ``UnknownName`` if there is none."""
        return self.get(self.current_name)

    def get(self, name: str) -> Session:
        """Return the session ``name``, or raise ``UnknownName`` with the known names."""
        known = self._known()
        if not known:
            message = "no model is loaded yet: run %kvload MODEL first, for example %kvload tiny"
            raise UnknownName(message)
        if name not in known:
            message = f"unknown session {name!r}{closest(name, list(known))} (known: {', '.join(known)})"
            raise UnknownName(message)
        return known[name]

    def load(self, model: str, name: str | None, **options: Any) -> Session:  # noqa: ANN401  (those of nbkv.load)
        """Load ``model`` and make it current; only then is the session it replaces closed, if it was loaded here.

        That is the one of the same ``name``, or without a name the former current one.
        """
        import nbkv  # noqa: PLC0415  (torch comes with what it loads)

        with process_work(loading(model), LOADING_STEPS) as work:
            if "torch" not in sys.modules:
                work.expect(1)
                work.step("importing torch and transformers")
            session = nbkv.load(model, name=name, **options)
        replaced = self.current_name if name is None else name
        _loaded.add(session)
        if replaced in self._open:
            self.close(replaced)
        self.add(session, name or _free_name(session.name, self._open))
        return session

    def add(self, session: Session, name: str) -> None:
        """Take an open session in and make it current."""
        self._open[name] = session
        self._current = name

    def use(self, name: str) -> None:
        """Make the session ``name`` current."""
        self.get(name)
        self._current = name

    def close(self, name: str) -> None:
        """Free the session ``name``; the newest of the others becomes current if it was."""
        self.get(name).close()
        self._open.pop(name, None)
        if name == self._current:
            self._current = next(reversed(self._open), "")

    def close_loaded(self) -> None:
        """Free the sessions that were loaded here."""
        for session in self._open.values():
            session.close()
        self._open.clear()

    def _known(self) -> dict[str, Session]:
        known = {name: session for name, session in self._open.items() if not session.closed}
        for session in roster:
            if session not in _loaded and session not in known.values():
                known[_free_name(session.name, known)] = session
        return known


def _free_name(wanted: str, taken: dict[str, Session]) -> str:
    name = wanted
    while name in taken:
        name += "_"
    return name
