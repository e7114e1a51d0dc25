"""``%kvplay``: one prompt of chunks in any order, tried under several strategies, the answers side by side.

Every run begins with the store as the notebook left it and leaves it so: no run finds what an earlier one computed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from traitlets import List

from nbkv.errors import BadPrompt
from nbkv.show import result_html, result_summary
from nbkv.show.dashboard import MAX_CARDS, cards_html, cards_text
from nbkv.widgets.base import LiveView, script
from nbkv.widgets.choices import choices, picked, spec

if TYPE_CHECKING:
    from nbkv.result import Chunk, Result
    from nbkv.session.session import Session

MAX_TEXT = 160  # characters of a chunk shown while hovering
BUSY = "the session is busy with a request: wait for it to end or stop it, then run again"


class Playground(LiveView):
    """Strategy, budget and order of chunks to choose; text, token map and cost of the last runs in ``cards``."""

    _esm = script("playground.js")
    cards: List[Any] = List().tag(sync=True)

    def __init__(self, session: Session) -> None:
        """Offer what ``session`` has."""
        self._session, self._choices = session, choices(session)
        self._said, self._text = "", ""
        self._running = threading.Lock()
        super().__init__()
        self._send_state()

    def look(self) -> dict[str, Any]:
        """Return chunks and controls, and how far the present run is."""
        session = self._session
        chunks = [_chunk(chunk) for chunk in tuple(session.chunks.values())]
        about = {"session": session.name, "model": session.model_name, "closed": session.closed}
        run = {"running": self._running.locked(), "text": self._text, "said": self._said}
        return about | run | {"chunks": chunks, "choices": self._choices, "picked": picked(session.strategy)}

    def act(self, given: dict[str, Any]) -> None:
        """Run a prompt, stop it, or put the cards away."""
        self._said = ""
        match given.get("do"):
            case "run":
                self._begin(given)
            case "stop":
                self._session.stop()
            case "clear":
                self.cards = []

    def refresh(self) -> None:
        """Look again at what changes without an event: chunks, strategy, whether the session is open."""
        self.touch()

    def text(self) -> str:
        """Return what was run, one line a run."""
        return cards_text(self._title(), self.cards)

    def html(self) -> str:
        """Return the last runs as a static page."""
        return cards_html(self._title(), self.cards)

    def _title(self) -> str:
        shown = ", ".join(self._session.chunks) or "none yet"
        return f"KV playground of {self._session.name} ({self._session.model_name}), chunks: {shown}"

    def _begin(self, given: dict[str, Any]) -> None:
        """Start a thread for the run: the handler of a message may hold up neither cells nor other messages."""
        if self._session.busy or not self._running.acquire(blocking=False):
            self._said = BUSY
            return
        threading.Thread(target=self._run, args=(given,), daemon=True).start()

    def _run(self, given: dict[str, Any]) -> None:
        try:
            result = self._answer(given)
            title = f"{result.strategy}: {', '.join([*given.get('order', ()), 'text'])}"
            shown = result.to_dict()
            card = {"title": title, "html": result_html(shown), "text": result_summary(shown)}
            self.cards = [*self.cards, card][-MAX_CARDS:]
        except Exception as error:  # noqa: BLE001  (a thread's error has nowhere else to go)
            self._said = str(error) or type(error).__name__
        finally:
            self._text = ""
            self._running.release()
            self.touch()

    def _answer(self, given: dict[str, Any]) -> Result:
        session = self._session
        parts = [*(session.chunks[name] for name in given.get("order", ())), *filter(None, [given.get("text")])]
        if not parts:
            message = "there is nothing to run: pick a chunk or write a text behind the chunks"
            raise BadPrompt(message)
        prompt: Any = [{"role": "user", "content": parts}] if session.has_template else parts
        options = {"max_new_tokens": given.get("max_new", 32), "fidelity": bool(given.get("measure")), "keep": False}
        stream = session.stream(prompt, strategy=spec(given), **options)
        for piece in stream:
            self._text += piece
            self.touch()
        assert stream.result is not None  # noqa: S101  (an iterated stream has one)
        return stream.result


def _chunk(chunk: Chunk) -> dict[str, Any]:
    text = " ".join(chunk.text.split())
    return {"name": chunk.name, "tokens": len(chunk), "text": text[:MAX_TEXT] + ("…" if len(text) > MAX_TEXT else "")}
