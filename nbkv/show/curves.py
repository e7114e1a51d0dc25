"""Curves with their intervals, for a talk: at most six lines in a panel, each named at its end, round ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from nbkv.show.axis import Axis, log_axis, number_axis, share_axis
from nbkv.show.drawing import Drawing, drawing, suffix, word
from nbkv.show.palette import SERIES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST = 6  # lines that an eye follows
WIDE, HIGH = 300, 240  # pixels of a panel's area
LINE, CHARACTER = 15, 6.6  # pixels of a label
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
REFERENCE = "full"


@dataclass(frozen=True)
class Curve:
    """Points ``y`` over ``x``, ascending, under a name; ``low`` and ``high`` are the ends of their intervals."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes: ``title`` says what is high, ``x`` what runs to the right.

    ``x_percent`` and ``y_percent``: shares, drawn from 0 to 100 %. ``floor``: a logarithmic axis down to this power of
    ten, on which everything below it lies. ``level``: where full is, a dotted line.
    """

    title: str
    curves: Sequence[Curve]
    x: str = ""
    x_percent: bool = False
    y_percent: bool = False
    floor: float | None = None
    level: float | None = None

    @property
    def lines(self) -> int:
        """Return how many lines there are to tell apart."""
        return len(self.curves) + (self.level is not None)

    def axes(self) -> tuple[Axis, Axis]:
        """Return both axes, wide enough for all points and intervals."""
        along = [float(value) for curve in self.curves for value in curve.x]
        up = [float(v) for each in self.curves for part in (each.y, each.low, each.high) for v in part or ()]
        up += [] if self.level is None else [self.level]
        below = share_axis(along) if self.x_percent else number_axis(along, zero=False)
        if self.floor is not None:
            return below, log_axis(up, self.floor)
        return below, share_axis(up) if self.y_percent else number_axis(up)


class CurveLook(NamedTuple):
    """A curve's colour, dash and symbol, as plotly names them: colour is never the only sign."""

    colour: str
    dash: str
    symbol: str


def curves(title: str, *panels: Panel, columns: int = 2, alike: bool = False, wide: int = WIDE) -> Drawing:
    """Return the panels beside each other, ``columns`` in a row; a name has the same colour in all of them.

    ``alike``: all panels have the same axes, so that heights can be compared. ``wide``: pixels of a panel's area.

    Raises ``ValueError`` for more than six lines in a panel, full's level among them: whoever draws chooses which.
    """
    if crowded := next((panel for panel in panels if panel.lines > MOST), None):
        message = f"{crowded.lines} lines in {crowded.title!r}: at most {MOST} can be told apart"
        raise ValueError(message)
    names = dict.fromkeys(curve.name for panel in panels for curve in panel.curves)
    names |= dict.fromkeys([REFERENCE] if any(panel.level is not None for panel in panels) else [])
    looks = _looks([*names])
    room = round(CHARACTER * max(map(len, names), default=0)) + 14
    figure = drawing(title, len(panels), columns=columns, area=(wide, HIGH), room=room)
    shared = replace(panels[0], curves=[curve for panel in panels for curve in panel.curves]).axes() if alike else None
    for number, panel in enumerate(panels, 1):
        _draw(figure, number, panel, looks, shared or panel.axes())
    return Drawing(figure, text(title, panels))


def text(title: str, panels: Sequence[Panel]) -> str:
    """Return what the panels show, a line a curve."""
    told = [title]
    for panel in panels:
        told.append(f"{panel.title} by {panel.x}" if panel.x else panel.title)
        for curve in panel.curves:
            points = zip(curve.x, curve.y, strict=True)
            said = [f"{_said(x, panel.x_percent)}: {_said(y, panel.y_percent)}" for x, y in points]
            told.append(f"  {curve.name}  {', '.join(said)}")
    return "\n".join(told)


def _said(value: float, percent: bool) -> str:  # noqa: FBT001  (as a panel has it)
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


def _looks(names: Sequence[str]) -> dict[str, CurveLook]:
    """Return the looks by name: what is ``full`` has the last colour, the others take the palette in turn."""
    free = [name for name in names if name != REFERENCE]
    colours = SERIES if len(free) == len(names) else SERIES[:-1]
    found = {
        name: CurveLook(colours[turn % len(colours)], DASHES[turn % MOST], SYMBOLS[turn % MOST])
        for turn, name in enumerate(free)
    }
    return found | {REFERENCE: CurveLook(SERIES[-1], "dot", "circle")}


def _draw(figure: Figure, number: int, panel: Panel, looks: dict[str, CurveLook], axes: tuple[Axis, Axis]) -> None:
    x, y = axes
    axis = suffix(number)
    place = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    for curve in panel.curves:
        look = looks[curve.name]
        if curve.low is not None and curve.high is not None:
            _band(figure, curve, y, look.colour, place)
        figure.add_scatter(
            x=list(curve.x),
            y=[max(value, y.low) for value in curve.y],
            name=curve.name,
            mode="lines+markers",
            line={"color": look.colour, "dash": look.dash, "width": 2},
            marker={"color": look.colour, "symbol": look.symbol, "size": 8},
            hovertemplate=f"{curve.name}<br>%{{x:.4g}}: %{{y:.4g}}<extra></extra>",
            **place,
        )
    ends = [(curve.name, x.place(curve.x[-1]), y.place(curve.y[-1])) for curve in panel.curves if len(curve.x)]
    if panel.level is not None:
        figure.add_scatter(
            x=[x.low, x.high],
            y=[panel.level] * 2,
            mode="lines",
            line={"color": SERIES[-1], "dash": "dot", "width": 1},
            hoverinfo="skip",
            **place,
        )
        ends.append((REFERENCE, 1.0, y.place(panel.level)))
    for name, height in apart([(name, height) for name, _, height in ends], LINE / HIGH):
        figure.add_annotation(word(name, number, 1.02, height, colour=looks[name].colour))
    figure.add_annotation(word(f"<b>{panel.title}</b>", number, 0, 1.1))
    figure.layout[f"xaxis{axis}"].update(title={"text": panel.x, "standoff": 8}, **x.plotly())
    figure.layout[f"yaxis{axis}"].update(**y.plotly())


def _band(figure: Figure, curve: Curve, y: Axis, colour: str, place: dict[str, str]) -> None:
    low, high = ([max(value, y.low) for value in side or ()] for side in (curve.low, curve.high))
    if len(low) == 1:  # an area of no width is not seen
        whisker = {"mode": "lines", "line": {"width": 2, "color": colour}, "hoverinfo": "skip"}
        figure.add_scatter(x=[curve.x[0]] * 2, y=[low[0], high[0]], **whisker, **place)
        return
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    figure.add_scatter(
        x=[*curve.x, *reversed(curve.x)],
        y=[*high, *reversed(low)],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.2)",
        line={"width": 0, "color": colour},
        hoverinfo="skip",
        **place,
    )


def apart(labels: Sequence[tuple[str, float]], least: float) -> list[tuple[str, float]]:
    """Return labels with their heights, moved as little as makes them ``least`` apart, in the order of the heights."""
    ordered = sorted(labels, key=lambda label: label[1])
    groups: list[list[tuple[str, float]]] = []
    for label in ordered:
        groups.append([label])
        while len(groups) > 1 and _bottom(groups[-1], least) < _top(groups[-2], least) + least:
            last = groups.pop()
            groups[-1] += last
    return [(name, _bottom(group, least) + index * least) for group in groups for index, (name, _) in enumerate(group)]


def _bottom(group: Sequence[tuple[str, float]], least: float) -> float:
    middle = sum(height for _, height in group) / len(group)
    span = (len(group) - 1) * least
    return min(max(middle - span / 2, 0.0), max(0.0, 1.0 - span))


def _top(group: Sequence[tuple[str, float]], least: float) -> float:
    return _bottom(group, least) + (len(group) - 1) * least
