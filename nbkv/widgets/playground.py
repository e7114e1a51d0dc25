"""``%kvplay``: one prompt of chunks in any order, tried under several strategies, the answers side by side.

Every run begins with the store as the notebook left it and leaves it so: no run finds what an earlier one computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import List

from nbkv.errors import BadPrompt
from nbkv.show import result_html, result_summary
from nbkv.show.dashboard import MAX_CARDS, cards_html, cards_text
from nbkv.widgets.background import BackgroundRun
from nbkv.widgets.base import LiveView, script
from nbkv.widgets.choices import spec

if TYPE_CHECKING:
    from nbkv.result import Chunk
    from nbkv.session.session import Session

MAX_TEXT = 160  # characters of a chunk shown while hovering


class Playground(LiveView):
    """Strategy, budget and order of chunks to choose; text, token map and cost of the last runs in ``cards``."""

    _esm, title = script("playground.js"), "Playground of"
    cards: List[Any] = List().tag(sync=True)

    def __init__(self, session: Session) -> None:
        """Offer what ``session`` has."""
        self._run = BackgroundRun(session, self.touch)
        super().__init__(session)
        self._send_state()

    def look(self) -> dict[str, Any]:
        """Return chunks and controls, and how far the present run is."""
        chunks = [_chunk(chunk) for chunk in tuple(self._session.chunks.values())]
        run = {"running": self._run.running, "text": self._run.text, "said": self._run.said}
        return self.shared() | run | {"chunks": chunks}

    def act(self, given: dict[str, Any]) -> None:
        """Run a prompt, stop it, or put the cards away."""
        self._run.said = ""
        match given.get("do"):
            case "run":
                self._run.begin(lambda: self._answer(given))
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

    def _answer(self, given: dict[str, Any]) -> None:
        session = self._session
        parts = [*(session.chunks[name] for name in given.get("order", ())), *filter(None, [given.get("text")])]
        if not parts:
            message = "there is nothing to run: pick a chunk or write a text behind the chunks"
            raise BadPrompt(message)
        prompt: Any = [{"role": "user", "content": parts}] if session.has_template else parts
        options = {"max_new_tokens": given.get("max_new", 32), "fidelity": bool(given.get("measure")), "keep": False}
        stream = session.stream(prompt, strategy=spec(given), **options)
        result = self._run.follow(stream)
        title = f"{result.strategy}: {', '.join([*given.get('order', ()), 'text'])}"
        shown = result.to_dict()
        card = {"title": title, "html": result_html(shown), "text": result_summary(shown)}
        self.cards = [*self.cards, card][-MAX_CARDS:]


def _chunk(chunk: Chunk) -> dict[str, Any]:
    text = " ".join(chunk.text.split())
    return {"name": chunk.name, "tokens": len(chunk), "text": text[:MAX_TEXT] + ("…" if len(text) > MAX_TEXT else "")}
