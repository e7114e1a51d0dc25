"""What the panel shows: a card for each open session, kept up to date by events, and what runs beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from nbkv import process_work
from nbkv.events import Bus, Event, Layer, Listener, Token
from nbkv.lab.session_state import SessionState
from nbkv.roster import Roster

if TYPE_CHECKING:
    from nbkv.session.session import Session


class WatchedSession(NamedTuple):
    """A session's card, and who listens where to keep it up to date."""

    card: SessionState
    bus: Bus
    ear: Listener


class SessionsState:
    """Listens to the sessions of a roster and says when something changed; ``state`` may be asked from any thread.

    ``watched`` tells whether anybody looks: while nobody does, events that come by the token cost a question only.
    """

    def __init__(self, roster: Roster, watched: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Show nothing before ``open``."""
        self._roster, self._watched, self._changed = roster, watched, changed
        self._lock = threading.Lock()
        self._seats: dict[int, WatchedSession] = {}
        self._numbers = count(1)
        self._active = 0
        self._ear = self._on_process_work  # one object, which the bus knows again

    def open(self) -> None:
        """Listen to the sessions there are and to those to come."""
        for session in self._roster:
            self._add(session)
        self._roster.watch(self._on_roster)
        process_work.bus.add(self._ear)

    def close(self) -> None:
        """Listen no more."""
        self._roster.unwatch(self._on_roster)
        process_work.bus.drop(self._ear)
        for number in list(self._seats):
            self._remove(number)

    def state(self) -> dict[str, Any]:
        """Return what the panel shows, as JSON-able data; ``active`` is the session that was last asked something."""
        for number, seat in list(self._seats.items()):
            if seat.card.session() is None:
                self._remove(number)
            # outside the lock: a store that reports to us from inside its own lock may not wait for us
            seat.card.read_tiers()
        with self._lock:
            sessions = [seat.card.state() for seat in self._seats.values()]
        works = [work.to_dict() for work in process_work.running()]
        return {"nbkv": 1, "active": self._active, "sessions": sessions, "works": works}

    def card(self, number: int) -> SessionState | None:
        """Return one session's card, if it is still open."""
        seat = self._seats.get(number)
        return None if seat is None else seat.card

    def explain(self, number: int, request: int) -> None:
        """Find out why tokens of a request ran, and show it."""
        if (card := self.card(number)) is not None:
            why = card.explain(request)
            with self._lock:
                card.explained(request, why)

    def rest(self) -> None:
        """Nothing runs at the moment: a request that broke with an error has not said so."""
        with self._lock:
            for seat in self._seats.values():
                seat.card.rest()

    def _on_roster(self, session: Session, is_open: bool) -> None:  # noqa: FBT001  (what happened)
        if is_open:
            self._add(session)
        for number, seat in list(self._seats.items()):
            if not is_open and seat.card.session() is session:
                self._remove(number)
        self._changed()

    def _on_process_work(self, _: Event) -> None:
        if self._watched():
            self._changed()

    def _add(self, session: Session) -> None:
        card = SessionState(next(self._numbers), session)
        seat = WatchedSession(card, session.events, partial(self._hear, card))
        with self._lock:
            self._seats[card.number] = seat
            self._active = card.number
        seat.bus.add(seat.ear)

    def _remove(self, number: int) -> None:
        with self._lock:
            seat = self._seats.pop(number, None)
        if seat is not None:
            seat.bus.drop(seat.ear)

    def _hear(self, card: SessionState, event: Event) -> None:
        watched = self._watched()
        if not watched and isinstance(event, (Token, Layer)):
            return
        with self._lock:
            card.hear(event)
            self._active = card.number
        if watched:
            self._changed()
