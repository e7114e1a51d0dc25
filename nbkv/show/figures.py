"""Plotly figures for ``%kvplot``, with a static picture and a text beside them for pages without plotly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import log10
from typing import TYPE_CHECKING, Any

from nbkv.show.axis import log_axis, number_axis, share_axis
from nbkv.show.bars import COLOURS, parts, ttft_html
from nbkv.show.comparison import comparison_text
from nbkv.show.drawing import FAINT, GREY, PLOTLY
from nbkv.show.page import plots, table_text, view
from nbkv.show.palette import EDGE, SERIES, TIME
from nbkv.show.scatter import KL_FLOOR, fidelity_html
from nbkv.show.units import nats, seconds, share

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_BARS = 24  # requests in the static picture


@dataclass(frozen=True)
class Plot:
    """A plotly figure (None where plotly is not installed) which is also kept as static HTML and as text."""

    figure: Figure | None
    html: str
    text: str

    def __repr__(self) -> str:
        """Return the figures as text."""
        return self.text

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": self.text, "text/html": self.html}
        if self.figure is not None:
            bundle[PLOTLY] = json.loads(self.figure.to_json())
        return bundle


def comparison_plot(comparison: dict[str, Any]) -> Plot:
    """Return the plot of a comparison in all three forms."""
    rows = comparison["rows"]
    picture = plots(ttft_html([(row["strategy"], row) for row in rows]), fidelity_html(rows))
    figure = comparison_figure(comparison) if find_spec("plotly") else None
    return Plot(
        figure,
        view(
            f'<div class="nbkv-plots" style="display:flex;flex-wrap:wrap;align-items:flex-start">{picture}</div>',
            "plot",
        ),
        comparison_text(comparison),
    )


def history_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Return the plot of a session's requests in all three forms; the static one shows the last requests only."""
    last = [(f"{row['request']} {row['strategy']}, {share(row['hit_rate'])}", dict(row)) for row in rows[-MAX_BARS:]]
    columns = ("request", "strategy", "TTFT", "hit rate")
    cells = [(row["request"], row["strategy"], seconds(row["ttft_s"]), share(row["hit_rate"])) for row in rows]
    figure = history_figure(rows) if find_spec("plotly") else None
    picture = plots(ttft_html(last, "Time to first token and hit rate by request"))
    return Plot(figure, view(picture, "plot"), table_text(columns, cells, left=(1,)))


def comparison_figure(comparison: dict[str, Any]) -> Figure:
    """Return TTFT split into its parts, and KL against the computed share."""
    from plotly.subplots import make_subplots  # noqa: PLC0415  (heavy, only for plots)

    rows = comparison["rows"]
    titles = ("Time to first token (ms)", "KL to full (nats) against computed share")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.14)
    names = [row["strategy"] for row in rows]
    for name, colour in COLOURS.items():
        values = [1e3 * {part.name: part.value for part in parts(row)}.get(name, 0.0) for row in rows]
        if not any(values):
            continue
        marker = {"color": colour, "pattern": {"shape": TIME[name].hatching}, "line": {"color": EDGE, "width": 1}}
        figure.add_bar(x=names, y=values, name=name, marker=marker, row=1, col=1)
    measured = [row for row in rows if row.get("kl") is not None]
    figure.add_scatter(
        x=[row["compute_share"] for row in measured],
        y=[max(row["kl"], KL_FLOOR) for row in measured],
        text=_labels(measured),
        customdata=[(row["strategy"], nats(row["kl"])) for row in measured],
        hovertemplate="%{customdata[0]}<br>KL %{customdata[1]}<br>computed %{x:.1%}<extra></extra>",
        mode="markers+text",
        textposition="top center",
        marker={"size": 10, "color": EDGE},
        showlegend=False,
        cliponaxis=False,
        row=1,
        col=2,
    )
    height = log_axis([1.0, *(row["kl"] for row in measured)], KL_FLOOR)
    figure.update_yaxes(**height.plotly(), row=1, col=2)
    along = share_axis(row["compute_share"] for row in measured)
    figure.update_xaxes(**along.plotly(), title={"text": "computed share", "standoff": 8}, row=1, col=2)
    times = [1e3 * float(row["ttft_s"]) for row in rows]
    figure.update_yaxes(**number_axis(times).plotly(), row=1, col=1)
    return themed(figure.update_layout(barmode="stack"))


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what stands at each point; points that lie on each other share the label of the first."""
    names: dict[tuple[int, int], list[str]] = {}
    spots = [(round(row["compute_share"] / 0.05), round(log10(max(row["kl"], KL_FLOOR)) * 3)) for row in rows]
    for spot, row in zip(spots, rows, strict=True):
        names.setdefault(spot, []).append(row["strategy"])
    return ["<br>".join(names.pop(spot, [])) for spot in spots]


def history_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return TTFT (left) and hit rate (right) over the requests, one colour a strategy."""
    from plotly.subplots import make_subplots  # noqa: PLC0415  (heavy, only for plots)

    figure = make_subplots(specs=[[{"secondary_y": True}]])
    requests, times = [row["request"] for row in rows], [1e3 * row["ttft_s"] for row in rows]
    rates = [row["hit_rate"] for row in rows]
    figure.add_scatter(
        x=requests,
        y=times,
        text=[row["strategy"] for row in rows],
        hovertemplate="request %{x}, %{text}<br>TTFT %{y:.1f} ms<extra></extra>",
        name="TTFT (ms)",
        mode="lines+markers",
        line={"color": SERIES[0]},
    )
    figure.add_scatter(
        x=requests,
        y=rates,
        name="hit rate",
        mode="lines+markers",
        line={"color": SERIES[1], "dash": "dot"},
        marker={"symbol": "square"},
        secondary_y=True,
    )
    figure.update_xaxes(title={"text": "request", "standoff": 8}, **number_axis(requests, zero=False).plotly())
    figure.update_yaxes(title={"text": "TTFT (ms)", "font": {"color": SERIES[0]}}, **number_axis(times).plotly())
    right = {"text": "hit rate", "font": {"color": SERIES[1]}}
    figure.update_yaxes(title=right, **share_axis(rates).plotly(), secondary_y=True, showgrid=False)
    return themed(figure).update_layout(showlegend=False)  # each axis has its line's colour and name


def themed(figure: Figure) -> Figure:
    """Return ``figure`` with the page's background showing through; plotly does not follow the theme."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        margin={"l": 60, "r": 40, "t": 40, "b": 45},
        height=340,
        legend={"orientation": "h", "y": -0.18, "traceorder": "normal"},
    )
    figure.update_xaxes(gridcolor=FAINT, zerolinecolor=FAINT)
    return figure.update_yaxes(gridcolor=FAINT, zerolinecolor=FAINT)
