"""A plotly figure as PNG, drawn by matplotlib: plotly itself draws in a browser only.

It knows what our figures are made of (lines, points, bands, bars, annotations on axes with ticks of their own), and
refuses anything else.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet
    from matplotlib.ticker import NullLocator
    from plotly.graph_objects import Figure

SCALE = 2  # pixels of the picture for one of the figure
_POINT = 0.72  # of a pixel, at 100 pixels an inch
_DASHES = {
    "solid": "-",
    "dash": (0, (4, 2)),
    "dot": (0, (1.2, 1.6)),
    "dashdot": (0, (5, 2, 1.2, 2)),
    "longdash": (0, (7, 2)),
    "longdashdot": (0, (7, 2, 1.2, 2)),
}
_SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "X", "cross": "P"}
_BESIDE = {"left": "left", "right": "right", "center": "center"}
_UPRIGHT = {"top": "top", "middle": "center", "bottom": "bottom"}


def png(figure: Figure) -> bytes:
    """Return ``figure``, which has a width and a height, as PNG on a clear ground; ``ValueError`` for unknown parts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (heavy, only for plots)
    from matplotlib.figure import Figure as Sheet  # noqa: PLC0415  (as above)

    drawn = figure.to_dict()
    layout = drawn["layout"]
    sheet = Sheet(figsize=(layout["width"] / 100, layout["height"] / 100), dpi=100 * SCALE)
    FigureCanvasAgg(sheet)
    ink, size = layout["font"]["color"], layout["font"]["size"]
    panels = {name: _axes(sheet, layout, name, ink) for name in layout if re.fullmatch(r"xaxis\d*", name)}
    for trace in drawn["data"]:
        draw = {"scatter": _scatter, "bar": _bar}.get(trace["type"])
        if draw is None:
            message = f"a picture of {trace['type']!r} is not known: scatter, bar"
            raise ValueError(message)
        draw(panels[f"xaxis{trace['xaxis'][1:]}"], trace)
    for note in layout.get("annotations", ()):
        _write(sheet, panels, note, {"color": ink, "size": size} | note.get("font", {}))
    held = io.BytesIO()
    sheet.savefig(held, format="png", transparent=True)
    return held.getvalue()


def _axes(sheet: Sheet, layout: dict[str, Any], name: str, ink: str) -> Axes:
    x, y = layout[name], layout[name.replace("x", "y", 1)]
    (left, right), (bottom, top) = x["domain"], y["domain"]
    axes: Axes = sheet.add_axes((left, bottom, right - left, top - bottom))
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(x["linecolor"])
    for one, axis, scale, limit in (
        (x, axes.xaxis, axes.set_xscale, axes.set_xlim),
        (y, axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        ends = one["range"]
        if one.get("type") == "log":
            scale("log")
            ends = [10.0**end for end in ends]
        limit(*ends)
        axis.set_ticks(one["tickvals"], labels=[_plain(label) for label in one["ticktext"]])
        axis.set_minor_locator(_no_ticks())
    axes.tick_params(
        axis="both", labelsize=layout["font"]["size"] * _POINT, labelcolor=ink, color=x["linecolor"], length=3
    )
    axes.tick_params(axis="y", length=0)
    if y.get("showgrid", True):
        axes.grid(axis="y", color="#808080", alpha=0.25, linewidth=0.7)
    if x.get("showgrid"):
        axes.grid(axis="x", color="#808080", alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    title = x.get("title", {}).get("text")
    if title:
        axes.set_xlabel(_plain(title), color=ink, size=layout["font"]["size"] * _POINT, labelpad=6)
    return axes


def _no_ticks() -> NullLocator:
    from matplotlib.ticker import NullLocator  # noqa: PLC0415  (heavy, only for plots)

    return NullLocator()


def _scatter(axes: Axes, trace: dict[str, Any]) -> None:
    line, marker, mode = trace.get("line", {}), trace.get("marker", {}), trace["mode"]
    x, y = list(trace["x"]), list(trace["y"])
    if trace.get("fill") == "toself":
        axes.fill(x, y, color=line["color"], alpha=0.2, linewidth=0)
        return
    axes.plot(
        x,
        y,
        color=line.get("color") or marker["color"],
        linestyle=_DASHES[line.get("dash", "solid")] if "lines" in mode else "none",
        linewidth=line.get("width", 2) * _POINT,
        marker=_SYMBOLS[marker.get("symbol", "circle")] if "markers" in mode else None,
        markersize=marker.get("size", 8) * _POINT,
        clip_on=False,
    )


def _bar(axes: Axes, trace: dict[str, Any]) -> None:
    y, widths, base = list(trace["y"]), list(trace["x"]), list(trace["base"])
    hatching = {"/": "//", ".": "..", "x": "xx", "": ""}[trace["marker"].get("pattern", {}).get("shape", "")]
    edge = trace["marker"]["line"]["color"]
    axes.barh(
        y,
        widths,
        height=trace["width"],
        left=base,
        color=trace["marker"]["color"],
        edgecolor=edge,
        hatch=hatching,
        linewidth=0.7,
    )


def _write(sheet: Sheet, panels: dict[str, Axes], note: dict[str, Any], font: dict[str, Any]) -> None:
    panel = re.fullmatch(r"x(\d*) domain", note["xref"])
    bold = note["text"].startswith("<b>")
    look = {
        "color": font["color"],
        "size": font["size"] * _POINT,
        "weight": "bold" if bold else "normal",
        "ha": _BESIDE[note.get("xanchor", "center")],
        "va": _UPRIGHT[note.get("yanchor", "middle")],
    }
    if panel is None:
        sheet.text(note["x"], note["y"], _plain(note["text"]), **look)
        return
    axes = panels[f"xaxis{panel[1]}"]
    axes.text(note["x"], note["y"], _plain(note["text"]), transform=axes.transAxes, clip_on=False, **look)


def _plain(markup: str) -> str:
    """Return the words of plotly's markup; a dollar sign is no mathematics."""
    return re.sub(r"</?[bi]>", "", markup).replace("<br>", "\n").replace("$", r"\$")
