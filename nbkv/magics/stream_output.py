"""Text on the screen while it is generated: one output that grows in a notebook, plain text in a terminal."""

from __future__ import annotations

import sys
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from IPython.display import clear_output, display

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.result import Result

INTERVAL = 0.1  # seconds between two updates


class Live(Protocol):
    """Shows a growing text for the length of a ``with`` block; ``markdown``: a chat model writes it."""

    markdown: bool

    def __enter__(self) -> Self:
        """Show nothing before the first piece."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave on the screen what is meant to stay."""

    def add(self, piece: str) -> None:
        """Append ``piece``."""

    def stop(self, result: Result | None) -> None:
        """Show how far it came: the run was broken off, and nothing will be returned that could show itself."""


def live(shell: InteractiveShell) -> Live:
    """Return what suits the front end."""
    return NotebookLive() if has_front_end(shell) else TerminalLive()


def has_front_end(shell: InteractiveShell) -> bool:
    """Whether there is a kernel, and so a front end that renders HTML and replaces outputs."""
    return getattr(shell, "kernel", None) is not None


class NotebookLive:
    """One output, updated at most ten times a second; the Result that is returned in the end takes its place.

    Taking its place means clearing the cell's outputs, so warnings wait until after that.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self.markdown = False
        self._text = ""
        self._handle: Any = None
        self._shown_at = 0.0
        self._catch = warnings.catch_warnings(record=True)
        self._caught: list[warnings.WarningMessage] = []

    def __enter__(self) -> Self:
        """Hold warnings back."""
        caught = self._catch.__enter__()
        self._caught = [] if caught is None else caught
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Clear the output as soon as the next one comes, if that will be the Result; let the warnings out."""
        self._catch.__exit__(kind, error, at)
        if kind is None and self._handle is not None:
            clear_output(wait=True)
        for held in self._caught:
            warnings.warn_explicit(held.message, held.category, held.filename, held.lineno)

    def add(self, piece: str) -> None:
        """Append ``piece``; it is drawn at once or with one of the next."""
        self._text += piece
        if time.monotonic() - self._shown_at >= INTERVAL:
            self._draw_text()

    def stop(self, result: Result | None) -> None:
        """Put the partial Result in place of the text, or draw the last pieces of text."""
        if result is not None:
            self._draw(result._repr_html_(), repr(result), result._repr_mimebundle_())
        elif self._text:
            self._draw_text()

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

    def stop(self, result: Result | None) -> None:
        """Say below the text what the partial Result cost."""
        from nbkv.show import result_summary  # noqa: PLC0415  (only when something was broken off)

        if result is not None:
            self.add(f"\n[{result_summary(result.to_dict())}]\n")
