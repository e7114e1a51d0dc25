"""The panel's other end: board and wire together, and what Stop and Clear do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comm

from nbkv.lab.comm import StateComm
from nbkv.lab.session_state import SessionState
from nbkv.lab.sessions_state import SessionsState
from nbkv.process_work import running
from nbkv.roster import Roster, roster

CONTROL = "nbkv.ctl"


class Lab:
    """Shows the sessions of this process to a JupyterLab panel, if there is one.

    Stop and Clear come over a comm of their own, which the front end opens and the kernel never publishes on: that is
    what ipykernel hands to a thread beside a busy cell. So what they do here is safe in any thread: a flag is set, and
    clearing is left to ``later``, which runs a function in the main thread when it is free.
    """

    def __init__(self, later: Callable[[Callable[[], None]], object], sessions: Roster = roster) -> None:
        """Do nothing before ``open``."""
        self._later = later
        self._wire = StateComm(self._state, self.receive)
        self._board = SessionsState(sessions, lambda: self._wire.heard, self._wire.wake)

    def open(self) -> None:
        """Listen to the sessions and offer the comm."""
        self._board.open()
        comm.get_comm_manager().register_target(CONTROL, self._on_control)
        self._wire.open()

    def close(self) -> None:
        """Listen and send no more."""
        self._board.close()
        comm.get_comm_manager().unregister_target(CONTROL, self._on_control)
        self._wire.close()

    def before_cell(self, *_: object) -> None:
        """Offer the comm again if a front end closed it: once a cell, as a page that knows it may have come."""
        self._board.rest()
        self._wire.open()

    def receive(self, said: Any) -> None:  # noqa: ANN401  (whatever a front end sends)
        """Do what the front end says; from any thread.

        That is ``{"event": "sync" | "stop" | "clear" | "why", "session": id}``: ``why`` with the number of a
        ``request``, ``stop`` also with the id of a ``work`` that no session does.
        """
        said = said if isinstance(said, dict) else {}
        card = self._board.card(said.get("session", 0))
        if said.get("event") == "stop" and card is not None:
            self._stop(card)
        elif said.get("event") == "stop":
            _stop_work(said.get("work"))
        elif said.get("event") == "why":
            self._board.explain(said.get("session", 0), said.get("request", 0))
        elif said.get("event") == "clear" and card is not None:
            card.clearing = True
            self._later(lambda: self._clear(card))
        self._wire.answered()

    def _state(self) -> dict[str, Any]:
        return self._board.state()

    def _on_control(self, line: Any, opening: dict[str, Any]) -> None:  # noqa: ANN401  (comms are untyped)
        line.on_msg(lambda message: self.receive(message["content"]["data"]))
        self.receive(opening["content"]["data"])

    def _stop(self, card: SessionState) -> None:
        session = card.session()
        if session is not None:
            card.stopping = True
            session.stop()

    def _clear(self, card: SessionState) -> None:
        session = card.session()
        if session is not None and not session.closed:
            session.store.clear()
        card.cleared()
        self._wire.wake()


def _stop_work(number: object) -> None:
    for work in running():
        if work.number == number:
            work.stop()
