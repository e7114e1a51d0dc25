"""The leaderboard's picture: a panel a model, distance to full over what is computed, with the front."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nbkv.show.curves import Curve, Panel, curves
from nbkv.show.drawing import Drawing
from nbkv.show.units import plural
from nbkv.studies.leaderboard.contest import EXACT
from nbkv.studies.leaderboard.standing import NOISE

RIVALS = ("naive", "random")
METHODS = 3  # beside the rivals and the front: six lines
PREFERRED = ("context", "primer", "bos", "none")
"""Behind what the chunks of the picture were encoded, the first that a model was measured with."""
_FLOOR = 1e-3  # nats
_COMPUTED = "computed, choosing included"


def sinks_drawn(frame: pd.DataFrame) -> dict[str, str]:
    """Return by model behind what the chunks of its panel were encoded: one panel has one sink."""
    known = {str(model): {*part["sink"]} for model, part in frame.groupby("model", sort=False)}
    return {model: min(sinks, key=lambda sink: (*PREFERRED, sink).index(sink)) for model, sinks in known.items()}


def drawn(standings: pd.DataFrame, sinks: dict[str, str], methods: int = METHODS) -> list[str]:
    """Return the methods that are drawn: those on the front of most models, behind ``sinks``, below the whole prompt.

    Equals stand by how near to full they are: the mean logarithm of their KL over naive reuse's.
    """
    ranked = []
    for model, sink in sinks.items():
        part = _part(standings, model, sink)
        naive = max(NOISE, *part.loc[part["method"] == "naive", "kl"])
        able = part[~part["method"].isin([*RIVALS, *EXACT]) & (part["kl"] > NOISE)]
        able = able.assign(height=np.log(able["kl"] / naive))
        ranked.append(able.groupby("method").agg(front=("front", "max"), height=("height", "mean")))
    if not ranked:
        return []
    summed = pd.concat(ranked).groupby("method").agg({"front": "sum", "height": "mean"})
    return [str(name) for name in summed.sort_values(["front", "height"], ascending=[False, True]).index[:methods]]


def pareto(standings: pd.DataFrame, sinks: dict[str, str], methods: list[str]) -> Drawing:
    """Return a panel a model: KL over the computed share of ``methods``, naive reuse and random rows, and the front.

    ``sinks``: what the drawn rows of each model were encoded behind; the front is of those, too.
    """
    panels = []
    for model, sink in sinks.items():
        part = _part(standings, model, sink)
        lines = [_line(part, name) for name in [*RIVALS, *methods]]
        shown = [line for line in [_front(part), *lines] if line.x]
        panels.append(Panel(_title(model, sink, part), shown, x=_COMPUTED, x_percent=True, floor=_FLOOR))
    return curves("Distance to full (KL, nats) against compute", *panels, columns=len(panels))


def right(standings: pd.DataFrame, sinks: dict[str, str], methods: list[str]) -> Drawing:
    """Return a panel a model: right answers over the computed share; dotted is full."""
    panels = []
    for model, sink in sinks.items():
        part = _part(standings, model, sink)
        lines = [_line(part, name, "right") for name in [*RIVALS, *methods]]
        full = part.loc[part["strategy"] == "full", "right"]
        panels.append(
            Panel(
                _title(model, sink, part),
                [line for line in lines if line.x],
                x=_COMPUTED,
                x_percent=True,
                y_percent=True,
                level=None if full.empty else float(full.iloc[0]),
            )
        )
    return curves("Right answers against compute", *panels, columns=len(panels))


def _title(model: str, sink: str, part: pd.DataFrame) -> str:
    """Return a panel's title: the model, the sink, and how many seeds or questions are drawn."""
    drawn_of = "" if part.empty else f", {plural(int(part['n'].max()), str(part['over'].iloc[0]).removesuffix('s'))}"
    return f"{model}, behind {sink}{drawn_of}"


def _line(part: pd.DataFrame, name: str, figure: str = "kl") -> Curve:
    rows = part[part["method"] == name].sort_values("share")
    low, high = (rows[f"{figure}_{end}"] for end in ("low", "high"))
    if low.isna().any():
        return Curve(name, [*rows["share"]], [*rows[figure]])
    return Curve(name, [*rows["share"]], [*rows[figure]], [*low], [*high])


def _part(standings: pd.DataFrame, model: str, sink: str) -> pd.DataFrame:
    return standings[(standings["model"] == model) & (standings["sink"] == sink)]


def _front(part: pd.DataFrame) -> Curve:
    """Return the front as far as there is a distance to full; it goes in steps, for nothing was run in between."""
    rows = part[part["front"] & (part["kl"] > NOISE)].sort_values("share")
    x, y = [*rows["share"]], [*rows["kl"]]
    steps = [(at, kl) for at, before, kl in zip(x[1:], y, y[1:], strict=False) for kl in (before, kl)]
    return Curve("front", [*x[:1], *(at for at, _ in steps)], [*y[:1], *(kl for _, kl in steps)])
