"""Long work while it runs: one line of text, a small view with what there is so far, and a bar for terminals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from nbkv.events import Advanced, Event, Listener
from nbkv.process_work import bus
from nbkv.show.certificate import certificate_html
from nbkv.show.comparison import comparison_html
from nbkv.show.page import view
from nbkv.show.plan import plan_html
from nbkv.show.report import report_html
from nbkv.show.tour import tour_html
from nbkv.show.units import plural, seconds

if TYPE_CHECKING:
    from tqdm import tqdm

DELAY = 1.0  # seconds before a bar shows: what is over by then needs none
_WIDTH = "height:4px;border-radius:2px;background-color"
# rows so far, by the kind of what will be returned
_VIEWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "certificate": certificate_html,
    "comparison": comparison_html,
    "plan": plan_html,
    "report": report_html,
    "tour": tour_html,
}


def progress_text(event: dict[str, Any], took_s: float) -> str:
    """Return what is done, how far it is and for how long it has run, in one line."""
    if event["over"]:
        whole = event["done"] >= event["total"]
        return f"{event['work']}: {'done' if whole else 'ended after ' + _steps(event)} in {seconds(took_s)}"
    return f"{event['work']}: {event['doing']} ({_steps(event)}, {seconds(took_s)})"


def _steps(event: dict[str, Any]) -> str:
    return f"{event['done']} of {plural(event['total'], 'step')}"


def progress_html(event: dict[str, Any], took_s: float) -> str:
    """Return the line, a bar, and what has been found so far."""
    line = f'<p class="nbkv-dim" role="status">{escape(progress_text(event, took_s))}</p>'
    if event["over"]:
        return view(line, "progress")
    share = 100 * event["done"] / max(1, event["total"])
    bar = f'<div style="{_WIDTH}:rgba(128,128,128,.3)"><div style="{_WIDTH}:#2f7fd0;width:{share:.0f}%"></div></div>'
    found = event["found"]
    table = _VIEWS[found["kind"]](found) if found.get("rows") or found.get("ways") else ""
    return view(f"{line}{bar}{table}", "progress")


class ProgressBars:
    """Draws a bar for each long work on standard error; into a file, which keeps every line, nothing."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._bars: dict[tuple[str, str], tqdm[Any]] = {}

    def __call__(self, event: Event) -> None:
        """Draw how far the work is; when it is over the bar is gone."""
        if not isinstance(event, Advanced):
            return
        bar = self._bars.get((event.session, event.work)) or self._new(event)
        bar.total = event.total
        bar.set_postfix_str(event.doing, refresh=False)
        bar.update(event.done - bar.n)
        if event.over:
            self._bars.pop((event.session, event.work)).close()

    def _new(self, event: Advanced) -> tqdm[Any]:
        from tqdm import tqdm  # noqa: PLC0415  (only for long work)

        # a notebook's standard error is no terminal but is drawn over all the same
        drawn_over = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
        told: dict[str, Any] = {"desc": event.work, "unit": "step", "delay": DELAY, "leave": False}
        bar = self._bars[event.session, event.work] = tqdm(total=event.total, disable=not drawn_over, **told)
        return bar


class Screen:
    """Where long work is shown: by bars, unless somebody who has a better place takes over."""

    def __init__(self) -> None:
        """Begin with bars."""
        self.shown_by: Listener = ProgressBars()

    def __call__(self, event: Event) -> None:
        """Let the work's progress be shown."""
        if isinstance(event, Advanced):
            self.shown_by(event)


screen = Screen()
bus.add(screen)
