"""How strategies stand: means with intervals, who is on the front of quality against compute, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nbkv.show.units import nats
from nbkv.studies.chunks import NAIVE
from nbkv.studies.leaderboard.contest import FIGURES
from nbkv.studies.real_text.equal_share import Point, at_share
from nbkv.studies.statistics import interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

DUMB = ("naive", "random", "lexical")
NOISE = 1e-6  # nats; below is arithmetic, and equal to full
_LEVEL = 0.975  # of Student's t: 95 % between both ends


def standing(frame: pd.DataFrame, by: Sequence[str] = ("model",)) -> pd.DataFrame:
    """Return one row a group, sink and strategy: ``n`` units, means, ``kl_low`` to ``right_high``, ``front``.

    Tasks of a group are pooled: a seed's figure is the mean over its tasks. Strategies that some unit of the group
    lacks are left out, since their mean would be one over other questions. ``random``: KL over that of random rows at
    the same share; NaN where those were not measured on both sides of it. ``front``: no other row of the group and
    sink computes as little and is as near to full, one of both less. Intervals are 95 %: Student's t over seeds, the
    bootstrap over given questions; NaN for a single unit.
    """
    keys = [*by, "sink", "strategy"]
    units = frame.groupby([*keys, "over", "unit"], sort=False)[[*FIGURES]].mean().reset_index()
    found = []
    for group, some in units.groupby([*by], sort=False):
        known = set(some["unit"])
        parts = some.groupby(["sink", "strategy"], sort=False)
        made = {(str(sink), str(name)): part for (sink, name), part in parts if known == {*part["unit"]}}
        errors = {key: part.set_index("unit")["kl"].loc[sorted(known)].to_numpy() for key, part in made.items()}
        rows = [dict(zip(by, group, strict=True)) | _row(*key, part) for key, part in made.items()]
        shares = {key: float(part["share"].mean()) for key, part in made.items()}
        for row in rows:
            row["random"] = _over_random(row, errors, shares)
        found += rows
    made_of = pd.DataFrame(found)
    made_of["front"] = False
    for _, some in made_of.groupby([*by, "sink"], sort=False):
        made_of.loc[some.index, "front"] = front([*zip(some["share"], some["kl"], strict=True)])
    return made_of


def _row(sink: str, strategy: str, part: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {"sink": sink, "strategy": strategy, "method": method(strategy), "n": len(part)}
    row |= {"over": part["over"].iloc[0]} | {figure: float(part[figure].mean()) for figure in FIGURES}
    for figure in ("kl", "right"):
        low, high = ends(part[figure].to_numpy(), seeds=row["over"] == "seeds")
        most = 1.0 if figure == "right" else np.inf
        row |= {f"{figure}_low": float(np.maximum(0.0, low)), f"{figure}_high": float(np.minimum(most, high))}
    return row


def method(strategy: str) -> str:
    """Return the name of a strategy without its options; naive reuse has a name of its own."""
    return "naive" if strategy == NAIVE else strategy.partition("(")[0]


def ends(values: NDArray[np.float64], *, seeds: bool) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``values``, one a seed or one a question; NaN for a single one."""
    if len(values) < 2:  # noqa: PLR2004  (one value has no spread)
        return float("nan"), float("nan")
    if not seeds:
        return interval(values)
    from scipy.stats import t  # noqa: PLC0415  (slow to import)

    half = float(t.ppf(_LEVEL, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of the ``(share, kl)`` no other one is as good as in both and better in one; noise is equal to 0."""
    told = [(round(share, 6), 0.0 if kl < NOISE else kl) for share, kl in points]
    return [not any(s <= share and k <= kl and (s, k) != (share, kl) for s, k in told) for share, kl in told]


def _over_random(
    row: dict[str, object], errors: dict[tuple[str, str], NDArray[np.float64]], shares: dict[tuple[str, str], float]
) -> float:
    own = [key for key in errors if key[0] == row["sink"] and method(key[1]) in {"naive", "random"}]
    rival = at_share([Point(shares[key], errors[key]) for key in own], float(str(row["share"])))
    return float("nan") if rival is None or rival.mean() < NOISE else float(str(row["kl"])) / float(rival.mean())


def best(standings: pd.DataFrame, within: float) -> pd.DataFrame:
    """Return the row of each model that is nearest to full among those that compute at most the share ``within``."""
    able = standings[standings["share"] <= within]
    return able.sort_values(["kl", "share"]).groupby("model").head(1).sort_index()


def conclusion(standings: pd.DataFrame, within: float) -> str:
    """Return what the leaderboard says in one sentence: the nearest to full on each model, beside naive reuse."""
    naive = standings[standings["method"] == "naive"].set_index(["model", "sink"])["kl"]
    told, beaten = [], []
    for row in best(standings, within).to_dict("records"):
        between = "" if np.isnan(row["kl_low"]) else f" ({nats(row['kl_low'])} to {nats(row['kl_high'])})"
        reused, model, sink = nats(float(naive[row["model"], row["sink"]])), str(row["model"]), row["sink"]
        told.append(f"on {model} {row['strategy']} behind {sink} at KL {nats(row['kl'])}{between}, naive {reused}")
        beaten += [model] if row["method"] in DUMB else []
    if not told:
        return f"**No strategy computes at most {within:.0%} of a prompt.**"
    warned = f"; a choice without a look at the model was enough on {', '.join(beaten)}" if beaten else ""
    return f"**Nearest to full for at most {within:.0%} of its compute: {'; '.join(told)}{warned}.**"
