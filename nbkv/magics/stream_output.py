"""Text on the screen while it is generated: one output that grows in a notebook, plain text in a terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from IPython.display import display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.result import Result
    from nbkv.session.chat import Chat

INTERVAL = 0.1  # seconds between two updates


@dataclass(frozen=True)
class Ending:
    """What takes the place of a streamed text: as HTML, as text, and as further data by MIME type.

    ``below`` is what a terminal, where the text stands already, has below it.
    """

    html: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    below: str = ""


def shown_result(result: Result) -> Ending:
    """Return a Result as the end of its text; a whole one is returned, and then says itself what it cost."""
    from nbkv.show import result_summary  # noqa: PLC0415  (a result exists, so it is imported)

    below = result_summary(result.to_dict()) if result.finish_reason == "interrupted" else ""
    return Ending(result._repr_html_(), repr(result), result._repr_mimebundle_(), below)


def shown_turn(chat: Chat) -> Ending:
    """Return the last turn of a conversation as the end of its text."""
    from nbkv.show.chat import saved_words, turn_html, turn_words  # noqa: PLC0415  (as above)

    told = chat.to_dict()
    last = told["turns"][-1]
    below = f"{turn_words(last)}; {saved_words(told)}"
    return Ending(turn_html(told), f"{last['answer']['text'].strip()}\n[{below}]", below=below)


class Live(Protocol):
    """Shows a growing text for the length of a ``with`` block; ``markdown``: a chat model writes it."""

    markdown: bool

    def __enter__(self) -> Self:
        """Show nothing before the first piece."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave on the screen what is meant to stay."""

    def add(self, piece: str) -> None:
        """Append ``piece``."""

    def end(self, shown: Ending) -> None:
        """Show what it came to."""


def live(shell: InteractiveShell) -> Live:
    """Return what suits the front end."""
    return NotebookLive() if has_front_end(shell) else TerminalLive()


def has_front_end(shell: InteractiveShell) -> bool:
    """Whether there is a kernel, and so a front end that renders HTML and replaces outputs."""
    return getattr(shell, "kernel", None) is not None


class NotebookLive:
    """One output, updated at most ten times a second; the Result takes its place, and no other output is touched."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self.markdown = False
        self._text = ""
        self._handle: Any = None
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        """Show nothing before the first piece."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Draw the last pieces, where nothing has taken their place."""
        if self._text:
            self._draw_text()

    def add(self, piece: str) -> None:
        """Append ``piece``; it is drawn at once or with one of the next."""
        self._text += piece
        if time.monotonic() - self._shown_at >= INTERVAL:
            self._draw_text()

    def end(self, shown: Ending) -> None:
        """Put it in place of the text."""
        self._draw(shown.html, shown.text, shown.data)
        self._text = ""

    def _draw_text(self) -> None:
        """Draw the text with the very elements that the complete answer begins with."""
        from nbkv import show  # noqa: PLC0415  (only when something is shown)

        html = show.coming_html(self._text, markdown=self.markdown)
        self._draw(html, self._text, show.answer_bundle(self._text, markdown=self.markdown))

    def _draw(self, html: str, text: str, data: dict[str, Any] | None = None) -> None:
        bundle = {"text/html": html, "text/plain": text} | (data or {})
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
        self._shown_at = time.monotonic()


class TerminalLive:
    """Writes the pieces as they come."""

    def __init__(self) -> None:
        """Write nothing yet."""
        self.markdown = False
        self._last = ""

    def __enter__(self) -> Self:
        """Write nothing before the first piece."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the line."""
        if self._last and not self._last.endswith("\n"):
            self.add("\n")

    def add(self, piece: str) -> None:
        """Write ``piece``."""
        sys.stdout.write(piece)
        sys.stdout.flush()
        self._last = piece or self._last

    def end(self, shown: Ending) -> None:
        """Write what belongs below the text."""
        if shown.below:
            self.add(f"\n[{shown.below}]\n")
