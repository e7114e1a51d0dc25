"""Live views for notebooks. The only place that knows anywidget, which is imported with the first view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbkv.session.chat import Chat
    from nbkv.session.session import Session
    from nbkv.widgets.conversation import Conversation
    from nbkv.widgets.dashboard import Dashboard
    from nbkv.widgets.playground import Playground

__all__ = ["conversation", "dashboard", "playground"]


def dashboard(session: Session) -> Dashboard:
    """Return a live view of ``session``'s figures, with its strategy and budget at hand: what ``%kvdash`` shows."""
    from nbkv.widgets.dashboard import Dashboard  # noqa: PLC0415  (anywidget comes with it)

    return Dashboard(session)


def playground(session: Session) -> Playground:
    """Return a view in which prompts of ``session``'s chunks are tried out side by side: what ``%kvplay`` shows."""
    from nbkv.widgets.playground import Playground  # noqa: PLC0415  (as above)

    return Playground(session)


def conversation(session: Session, chat: Chat, read: Callable[[str], Any] = str) -> Conversation:
    """Return a view of ``chat``, one of ``session``'s, with a box to go on in: what ``%kvchat`` shows.

    ``read`` makes what is asked of what was typed, such as a list of text and chunks.
    """
    from nbkv.widgets.conversation import Conversation  # noqa: PLC0415  (as above)

    return Conversation(session, chat, read)
