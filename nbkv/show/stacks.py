"""Bars with their parts in a row, for a talk: under each name its figures in words, and the bar they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nbkv.show.axis import number_axis, share_axis
from nbkv.show.drawing import Drawing, drawing, word
from nbkv.show.palette import EDGE, SERIES

WIDE, ROW = 420, 46  # pixels of the area, and of a bar with its words
BAR = 0.36  # of the row
CHARACTER = 6.4  # pixels
HATCHINGS = ("", "/", ".", "x")


@dataclass(frozen=True)
class Stack:
    """One bar: its ``parts`` by name, one after another, and a ``note`` that is said beside the figures."""

    name: str
    parts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def stacks(title: str, label: str, bars: Sequence[Stack], *, unit: str = "", percent: bool = False) -> Drawing:
    """Return the bars on one scale that begins at 0; ``label`` says what is long, ``percent``: shares, 0 to 100 %."""
    names = dict.fromkeys(name for bar in bars for name in bar.parts)
    sums = [sum(bar.parts.values()) for bar in bars]
    axis = share_axis(sums) if percent else number_axis(sums)
    told = [_told(bar, unit, percent=percent) for bar in bars]
    wide = max(WIDE, round(CHARACTER * max(map(len, told), default=0)))
    figure = drawing(title, 1, columns=1, area=(wide, ROW * len(bars)), room=30, corner=(12, 0))
    for number, name in enumerate(names):
        before = [sum(value for part, value in bar.parts.items() if [*names].index(part) < number) for bar in bars]
        edge = {"color": EDGE, "width": 1}
        figure.add_bar(
            y=list(range(len(bars))),
            x=[bar.parts.get(name, 0.0) for bar in bars],
            base=before,
            orientation="h",
            width=BAR,
            name=name,
            marker={"color": SERIES[number], "pattern": {"shape": HATCHINGS[number]}, "line": edge},
            hovertemplate=f"{name}: %{{x:.4g}} {unit}<extra></extra>",
            xaxis="x",
            yaxis="y",
        )
    for number, line in enumerate(told):
        figure.add_annotation(word(line, 1, 0.02, 1 - (number + 0.26) / len(bars)))
    figure.layout.xaxis.update(title={"text": label, "standoff": 8}, showgrid=True, **axis.plotly())
    figure.layout.yaxis.update(range=[len(bars) - 0.5 - 0.16, -0.5 - 0.16], tickvals=[], ticktext=[], showgrid=False)
    figure.update_layout(barmode="overlay")
    return Drawing(figure, "\n".join([title, *(f"  {line}" for line in told)]))


def _told(bar: Stack, unit: str, *, percent: bool) -> str:
    alone = len(bar.parts) == 1
    figures = []
    for name, value in bar.parts.items():
        said = f"{100 * value:.3g} %" if percent else f"{value:.3g} {unit}".strip()
        figures.append(said if alone else f"{name} {said}")
    return f"{bar.name}: {', '.join([*figures, *filter(None, [bar.note])])}"
