"""Live views in a notebook, each with a static picture below it that stays where there is no kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from IPython.display import display, update_display

from nbkv.magics.stream_output import has_front_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.widgets.base import LiveView


Shown = TypeVar("Shown")  # a session, or a conversation


class Views:
    """The views on display. A live view hides its picture; the picture follows at the end of each cell.

    The view itself is not displayed anew: a front end would build it again each time.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        """Show nothing yet."""
        self._shell = shell
        self._views: dict[tuple[Callable[[Any], LiveView], object], LiveView] = {}
        self._pictures: dict[str, str] = {}

    def show(self, make: Callable[[Shown], LiveView], shown: Shown) -> LiveView | None:
        """Display what ``make`` gives for ``shown``, the same as before if there is one; return it to a terminal."""
        view = self._views.get((make, shown)) or self._new(make, shown)
        view.refresh()
        if not has_front_end(self._shell):
            return view
        about = {"text/plain": f"{view.about}; how it was last stands below"}
        display(view.bundle(picture=False) | about, raw=True)
        display(self._picture(view), raw=True, display_id=view.model_id)
        return None

    def after_cell(self, _: object = None) -> None:
        """Bring views and pictures up to date; those of closed sessions for the last time."""
        for key, view in tuple(self._views.items()):
            view.refresh()
            self._update(view)
            if view.over:
                del self._views[key]

    def close(self) -> None:
        """Take all views off the page; their pictures stay."""
        for view in self._views.values():
            view.close()
        self._views.clear()

    def _new(self, make: Callable[[Shown], LiveView], shown: Shown) -> LiveView:
        view = self._views[make, shown] = make(shown)
        if view.has_trait("cards"):
            view.observe(lambda _: self._update(view), names="cards")  # a run of its own ends outside any cell
        return view

    def _update(self, view: LiveView) -> None:
        if has_front_end(self._shell) and self._pictures.get(view.model_id) != view.html():
            update_display(self._picture(view), raw=True, display_id=view.model_id)

    def _picture(self, view: LiveView) -> dict[str, Any]:
        html = self._pictures[view.model_id] = view.html()
        return {"text/html": f'<div class="nbkv-record-{view.model_id}">{html}</div>', "text/plain": view.text()}
