"""Live views for notebooks. The only place that knows anywidget, which is imported with the first view."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbkv.session.session import Session
    from nbkv.widgets.dashboard import Dashboard
    from nbkv.widgets.playground import Playground

__all__ = ["dashboard", "playground"]


def dashboard(session: Session) -> Dashboard:
    """Return a live view of ``session``'s figures, with its strategy and budget at hand: what ``%kvdash`` shows."""
    from nbkv.widgets.dashboard import Dashboard  # noqa: PLC0415  (anywidget comes with it)

    return Dashboard(session)


def playground(session: Session) -> Playground:
    """Return a view in which prompts of ``session``'s chunks are tried out side by side: what ``%kvplay`` shows."""
    from nbkv.widgets.playground import Playground  # noqa: PLC0415  (as above)

    return Playground(session)
