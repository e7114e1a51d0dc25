"""What all live views share: a state that is sent at a pace, and a static picture for pages without a kernel."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
from traitlets import Dict

from nbkv.show.palette import variables
from nbkv.widgets.choices import choices, picked
from nbkv.widgets.throttle import Pace

if TYPE_CHECKING:
    from nbkv.session.session import Session

HERE = Path(__file__).parent
STYLE = f".nbkv-live {{{variables()}}}\n" + (HERE / "view.css").read_text(encoding="utf-8")


def script(name: str) -> str:
    """Return a view's script with the drawing functions it uses in front: one module, which needs no import."""
    return "\n".join((HERE / part).read_text(encoding="utf-8") for part in ("draw.js", name))


class LiveView(anywidget.AnyWidget):
    """A widget whose ``state`` follows ``look()``, at most ten times a second.

    Messages of the front end arrive as ``act(given)``, possibly in a thread of their own while a cell runs: they set
    values and flags, never more.
    """

    _css = STYLE
    state = Dict().tag(sync=True)
    title: ClassVar[str]  # stands before the session's name

    def __init__(self, session: Session) -> None:
        """Open the connection to the front end, if there is one, of a view of ``session``."""
        self._session, self._choices = session, choices(session)
        self._pace = Pace(self._send_state)
        super().__init__()
        self.on_msg(self._on_message)

    @property
    def over(self) -> bool:
        """Whether there is nothing to follow any more."""
        return self._session.closed

    @property
    def about(self) -> str:
        """What it is a view of, in a few words."""
        return f"{self.title} {self._session.name}"

    @abstractmethod
    def refresh(self) -> None:
        """Look again at what changes without an event."""

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return all there is to show, small and JSON-able."""

    @abstractmethod
    def act(self, given: dict[str, Any]) -> None:
        """Do what the front end asked for; ``given["do"]`` says what."""

    @abstractmethod
    def text(self) -> str:
        """Return what there is to see, in words."""

    @abstractmethod
    def html(self) -> str:
        """Return what there is to see as a static page."""

    def shared(self) -> dict[str, Any]:
        """Return what every view of a session shows of it, and the strategies that may be picked."""
        session = self._session
        about = {"session": session.name, "model": session.model_name, "closed": session.closed}
        return about | {"choices": self._choices, "picked": picked(session.strategy)}

    def touch(self) -> None:
        """Let the front end know soon that something has changed."""
        self._pace.touch()

    def _send_state(self) -> None:
        if self.comm is not None:  # closed since it was touched
            self.state = self.look() | {"record": self.model_id}

    def _on_message(self, _: object, given: object, __: object) -> None:
        if isinstance(given, dict):
            self.act(given)
            self.touch()

    def __repr__(self) -> str:
        """Return what there is to see, in words."""
        return self.text()

    def bundle(self, *, picture: bool = True) -> dict[str, Any]:
        """Return the widget for a live page, with ``picture`` also what stays where there is no kernel."""
        found: Any = super()._repr_mimebundle_()
        data = dict(found[0] if isinstance(found, tuple) else found)
        static = {"text/html": self.html()} if picture else {}
        return data | static | {"text/plain": self.text()}

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:  # type: ignore[override]
        return self.bundle()
