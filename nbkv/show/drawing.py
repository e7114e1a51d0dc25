"""A figure as an output: plotly where a page has it, and a picture for those that do not (exported pages, GitHub)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbkv.show.palette import EDGE
from nbkv.show.picture import png

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PLOTLY = "application/vnd.plotly.v1+json"
GREY = "#7a7a7a"  # text that reads on white as on JupyterLab's dark ground
FAINT = "rgba(128,128,128,.25)"
LEFT, ABOVE, BELOW, TITLE = 70, 34, 62, 38  # pixels around a panel


@dataclass(frozen=True)
class Drawing:
    """A plotly figure that is also kept as PNG and as text."""

    figure: Figure
    text: str

    def __repr__(self) -> str:
        """Return the figure as text."""
        return self.text

    def png(self) -> bytes:
        """Return the picture, on a clear ground."""
        return png(self.figure)

    def save(self, path: str) -> None:
        """Write the picture to ``path``."""
        with open(path, "wb") as file:  # noqa: PTH123  (a plain path is what one gives)
            file.write(self.png())

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"text/plain": self.text, "image/png": self.png(), PLOTLY: json.loads(self.figure.to_json())}
        size = {"width": self.figure.layout.width, "height": self.figure.layout.height}
        return data, {"image/png": size}


def drawing(
    title: str, n: int, *, columns: int, area: tuple[int, int], room: int, corner: tuple[int, int] = (LEFT, ABOVE)
) -> Figure:
    """Return a figure of ``n`` empty panels of ``area`` pixels, ``columns`` in a row.

    ``room`` pixels are left to the right of each, ``corner`` to the left and above.
    """
    from plotly.graph_objects import Figure  # noqa: PLC0415  (heavy, only for plots)

    columns, (wide, high), (left_of, above) = min(columns, n), area, corner
    rows = -(-n // columns)
    width, height = columns * (left_of + wide + room), TITLE + rows * (above + high + BELOW)
    figure = Figure()
    for number in range(n):
        row, column = divmod(number, columns)
        axis = suffix(number + 1)
        left, top = column * (left_of + wide + room) + left_of, TITLE + row * (above + high + BELOW) + above
        common = {"gridcolor": FAINT, "zeroline": False, "linecolor": EDGE, "automargin": False}
        x = {"domain": [left / width, (left + wide) / width], "anchor": f"y{axis}", "showgrid": False}
        y = {"domain": [1 - (top + high) / height, 1 - top / height], "anchor": f"x{axis}"}
        figure.layout[f"xaxis{axis}"] = x | common | {"showline": True, "ticks": "outside"}
        figure.layout[f"yaxis{axis}"] = y | common
    at = {"x": 0, "y": 1 - 8 / height, "yanchor": "top", "xanchor": "left", "xref": "paper", "yref": "paper"}
    figure.add_annotation(text=f"<b>{title}</b>", showarrow=False, font={"size": 15}, **at)
    return figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        width=width,
        height=height,
        showlegend=False,
    )


def word(text: str, number: int, x: float, y: float, *, colour: str = GREY, anchor: str = "left") -> dict[str, Any]:
    """Return an annotation of panel ``number`` at shares ``x`` and ``y`` of its area."""
    at = {"x": x, "y": y, "xref": f"x{suffix(number)} domain", "yref": f"y{suffix(number)} domain"}
    return {"text": text, "showarrow": False, "xanchor": anchor, "yanchor": "middle", "font": {"color": colour}, **at}


def suffix(number: int) -> str:
    """Return how plotly calls the axes of panel ``number``: the first have no number."""
    return "" if number == 1 else str(number)
