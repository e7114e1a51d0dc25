"""``%kvchat``: a conversation with a box to go on in; any earlier question can be put otherwise and asked anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import List

from nbkv.session.conversation.asking import Asking
from nbkv.show.answer import answer_html
from nbkv.show.chat import chat_html, chat_text, saved_words, turn_cards
from nbkv.show.page import view
from nbkv.widgets.background import BackgroundRun
from nbkv.widgets.base import LiveView, script
from nbkv.widgets.choices import spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbkv.session.chat import Chat
    from nbkv.session.session import Session

MOST = 256  # tokens of an answer, unless told otherwise


class Conversation(LiveView):
    """The turns so far in ``cards``, each with its Markdown and where its prompt came from; below them the box."""

    _esm, title = script("conversation.js"), "Chat with"
    cards: List[Any] = List().tag(sync=True)

    def __init__(self, session: Session, chat: Chat, read: Callable[[str], Any] = str) -> None:
        """Show ``chat``, one of ``session``'s, as it is now; ``read`` makes what is asked of what was typed."""
        self._chat, self._read, self._asked = chat, read, ""
        self._run = BackgroundRun(session, self.touch)
        super().__init__(session)
        self.refresh()
        self._send_state()

    def look(self) -> dict[str, Any]:
        """Return controls, what reuse has saved, and how far the present answer is."""
        run = self._run
        coming = view(answer_html(run.text, markdown=True), "chat") if run.text else ""
        told = self._told
        return self.shared() | {
            "system": told["system"] or "",
            "saved": saved_words(told) if told["turns"] else "",
            "running": run.running,
            "asked": self._asked if run.running else "",
            "html": coming,
            "said": run.said,
            "most": MOST,
        }

    def act(self, given: dict[str, Any]) -> None:
        """Ask what was typed, at the end or in place of an earlier turn, or stop the answer under way."""
        self._run.said = ""
        match given.get("do"):
            case "send":
                self._run.begin(lambda: self._answer(given))
            case "stop":
                self._session.stop()

    def refresh(self) -> None:
        """Look at the conversation again: cells add turns to it as well."""
        self._told = self._chat.to_dict()
        self.cards = turn_cards(self._told)
        self.touch()

    def text(self) -> str:
        """Return the conversation as text."""
        return chat_text(self._chat.to_dict())

    def html(self) -> str:
        """Return the conversation as a static page."""
        return chat_html(self._chat.to_dict())

    def _answer(self, given: dict[str, Any]) -> None:
        self._asked = str(given.get("text", ""))
        options = {"strategy": spec(given), "max_new_tokens": given.get("max_new", MOST)}
        asking = Asking(self._chat, self._read(self._asked), given.get("turn"), **options)
        self._run.follow(asking.stream)
        if not asking.keep():
            self._run.said = "stopped: the conversation is as it was before"
        self.refresh()
