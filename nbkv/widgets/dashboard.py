"""``%kvdash``: a session's figures while they change, and its strategy and budget at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Dict

from nbkv.errors import NbkvError
from nbkv.events import Event, Token
from nbkv.show.dashboard import dashboard_html, dashboard_text
from nbkv.widgets.base import LiveView, script
from nbkv.widgets.choices import spec
from nbkv.widgets.history import History

if TYPE_CHECKING:
    from nbkv.session.session import Session


class Dashboard(LiveView):
    """Hit rate, TTFT, tokens per second and fidelity over the requests, bytes by tier, evictions."""

    _esm, title = script("dashboard.js"), "Dashboard of"
    live: Dict[Any, Any] = Dict().tag(sync=True)  # apart from the state: it is sent again with the tokens

    def __init__(self, session: Session) -> None:
        """Follow ``session`` from now on."""
        self._curves, self._paused, self._said = History(session), False, ""
        super().__init__(session)
        self._listener = self._hear  # one object, which the bus knows again
        session.events.add(self._listener)
        self._send_state()

    def look(self) -> dict[str, Any]:
        """Return figures and controls."""
        return self.shared() | self._curves.state() | {"paused": self._paused, "said": self._said}

    def act(self, given: dict[str, Any]) -> None:
        """Pause and resume drawing, reset the curves, or switch the session's strategy."""
        self._said = ""
        match given.get("do"):
            case "pause":
                self._paused = True
            case "resume":
                self._paused = False
            case "reset":
                self._curves.reset()
            case "use":
                self._use(given)

    def refresh(self) -> None:
        """Look again at what changes without an event: strategy, store, whether the session is open."""
        self._curves.stale()
        if not self._paused:
            self.touch()

    def text(self) -> str:
        """Return the figures in one line."""
        return dashboard_text(self._curves.state())

    def html(self) -> str:
        """Return the figures of this moment as a static page."""
        return dashboard_html(self._curves.state())

    def close(self) -> None:
        """Follow the session no more."""
        self._session.events.drop(self._listener)
        super().close()

    def _hear(self, event: Event) -> None:
        self._curves(event)
        if self._paused:
            return
        if isinstance(event, Token):
            self._pace.pass_by(self._send_live)
        else:
            self._pace.touch()

    def _send_state(self) -> None:
        super()._send_state()
        self._send_live()

    def _send_live(self) -> None:
        self.live = self._curves.progress()

    def _use(self, given: dict[str, Any]) -> None:
        try:
            self._session.use(spec(given))
        except NbkvError as error:
            self._said = str(error)
