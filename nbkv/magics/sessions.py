"""The sessions a notebook has open, by name; one of them is current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbkv.errors import UnknownName, closest

if TYPE_CHECKING:
    from nbkv.session.session import Session


class Sessions:
    """Opens, finds, switches and closes sessions."""

    def __init__(self) -> None:
        """Start with none."""
        self._open: dict[str, Session] = {}
        self._current = ""

    @property
    def names(self) -> list[str]:
        """The names of the open sessions, in the order they came."""
        return list(self._open)

    @property
    def current_name(self) -> str:
        """The name of the current session, empty if there is none."""
        return self._current

    @property
    def current(self) -> Session:
        """The current session; raises ``UnknownName`` if there is none."""
        return self.get(self._current)

    def get(self, name: str) -> Session:
        """Return the session ``name``, or raise ``UnknownName`` with the known names."""
        if not self._open:
            message = "no model is loaded yet: run %kvload MODEL first, for example %kvload tiny"
            raise UnknownName(message)
        if name not in self._open:
            message = f"unknown session {name!r}{closest(name, self.names)} (known: {', '.join(self.names)})"
            raise UnknownName(message)
        return self._open[name]

    def load(self, model: str, name: str | None, **options: Any) -> Session:  # noqa: ANN401  (those of nbkv.load)
        """Load ``model`` and make it current; only then is the session it replaces closed.

        That is the one of the same ``name``, or without a name the former current one.
        """
        import nbkv  # noqa: PLC0415  (torch comes with it)

        session = nbkv.load(model, name=name, **options)
        replaced = self._current if name is None else name
        if replaced in self._open:
            self.close(replaced)
        self.add(session, name or self._free_name(session.name))
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
        del self._open[name]
        if name == self._current:
            self._current = next(reversed(self._open), "")

    def _free_name(self, wanted: str) -> str:
        name = wanted
        while name in self._open:
            name += "_"
        return name
