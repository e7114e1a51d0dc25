"""The pictures of the tables on real text: distance to full over what is computed, and over the time to first token."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbkv.show.curves import MOST, Curve, Panel, curves
from nbkv.show.drawing import GREY, Drawing
from nbkv.studies.real_text.measurements import Row, Table
from nbkv.studies.real_text.verdicts import DEFAULT_SINK, RIVAL, alias
from nbkv.studies.statistics import interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INKS = {"light": "#1c1e21", "dark": "#e4e6e8"}
OF_SHARE, OF_TIME = "real_text_share", "real_text_time"
Place = Callable[[Table, Row, "NDArray[np.bool_]"], float]
"""Where a row stands on the lower axis, as a share, of the questions that are drawn."""
_FLOOR = 1e-3  # nats
_FIRST = ("prophet", "epic", "cacheblend", "cachecraft", "kvshare", "passage")  # after blend, as far as there is room


def save_pictures(tables: Sequence[Table], folder: Path) -> None:
    """Write the pictures of ``tables`` into ``folder``, those that there is something to draw in."""
    folder.mkdir(parents=True, exist_ok=True)
    if shown := to_draw(tables):
        save(over_share(shown), folder, OF_SHARE)
    if timed := to_draw(tables, timed=True):
        save(over_time(timed), folder, OF_TIME)


def to_draw(tables: Sequence[Table], *, timed: bool = False) -> list[Table]:
    """Return the tables that have a curve; ``timed``: one whose times to first token were measured."""
    return [table for table in tables if drawn(table, timed=timed)]


def over_share(tables: Sequence[Table]) -> Drawing:
    """Return a panel a table: KL over the computed share of the methods drawn, with intervals over questions."""
    return _curves(tables, "computed, choosing included (%)", lambda table, row, among: table.share(row, among))


def over_time(tables: Sequence[Table]) -> Drawing:
    """Return the same over the time to first token, as a share of full's."""
    return _curves(
        tables, "time to first token (% of full's)", lambda table, row, _: 1 / table.speeds[row[1]], timed=True
    )


def _curves(tables: Sequence[Table], told: str, place: Place, *, timed: bool = False) -> Drawing:
    shown = [(table, drawn(table, timed=timed)) for table in to_draw(tables, timed=timed)]
    panels = [Panel(*_panel(table, found, place), x=told, floor=_FLOOR) for table, found in shown]
    return curves(f"Distance to full (KL, nats), chunks behind {DEFAULT_SINK}", *panels, columns=2)


def drawn(table: Table, *, timed: bool = False) -> dict[str, list[Row]]:
    """Return by method the rows of its curve: at most six methods, all of which some question has.

    Those with fewer questions than half as many as the first one are left out. ``timed``: only rows whose time is
    known.
    """
    found: dict[str, list[Row]] = {}
    for name in dict.fromkeys((alias(), *_FIRST)):
        rows = [row for row in table.curve((DEFAULT_SINK, name)) if not timed or row[1] in table.speeds]
        before = [row for each in found.values() for row in each]
        if rows and 2 * table.n(*before, *rows) >= (table.n(*before) if before else 2) and len(found) < MOST:
            found[name] = rows
    return found


def _panel(table: Table, shown: dict[str, list[Row]], place: Place) -> tuple[str, list[Curve]]:
    """Return the title of a panel and its curves, all of the same questions."""
    among = table.asked(*(row for rows in shown.values() for row in rows))
    lines = []
    for name, rows in shown.items():
        ordered = sorted(rows, key=lambda row: place(table, row, among))
        kls = [table.figures(row, "kl", among) for row in ordered]
        along = [100 * place(table, row, among) for row in ordered]
        ends = [interval(kl) for kl in kls] if name in {alias(), RIVAL[1]} and among.sum() > 1 else []
        low, high = ([end[side] for end in ends] or None for side in (0, 1))
        lines.append(Curve(name, along, [float(kl.mean()) for kl in kls], low, high))
    return f"{table.title}, n {among.sum()}", lines


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write ``name``_light.png and ``name``_dark.png into ``folder``, letters in the ink of each, on a clear ground."""
    from plotly.graph_objects import Figure  # noqa: PLC0415  (heavy, only for plots)

    written = []
    for theme, ink in INKS.items():
        figure = Figure(json.loads(str(drawing.figure.to_json()).replace(GREY, ink)))
        written.append(folder / f"{name}_{theme}.png")
        Drawing(figure, drawing.text).save(str(written[-1]))
    return written
