"""How strategies stand: means with intervals, who is on the front of quality against compute, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nbkv.show.units import nats, plural
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
    """Return one row a group, sink and strategy: ``n`` units, means, ``kl_low`` to ``right_high``, ``front``, ``all``.

    Tasks of a group are pooled: a seed's figure is the mean over its tasks. Rows may have different units: ``all`` is
    whether a row has every unit of its group, and rows are held against each other over the units that both have, and
    not at all where there are none. ``random``: KL over that of random rows at the same share; NaN where those were not
    measured on both sides of it. ``front``: no other row of the group and sink computes as little and is as near to
    full, one of both less. Intervals are 95 %: Student's t over seeds, the bootstrap over given questions; NaN for a
    single unit.
    """
    keys = [*by, "sink", "strategy"]
    units = frame.groupby([*keys, "over", "unit"], sort=False)[[*FIGURES]].mean().reset_index()
    found = []
    for group, some in units.groupby([*by], sort=False):
        every = some["unit"].nunique()
        for sink, beside in some.groupby("sink", sort=False):
            board = _Board(beside)
            for strategy, part in beside.groupby("strategy", sort=False):
                row = dict(zip(by, group, strict=True)) | _row(str(sink), str(strategy), part)
                row |= {"all": len(part) == every, "random": board.over_random(str(strategy))}
                found.append(row | {"front": board.on_front(str(strategy))})
    return pd.DataFrame(found)


class _Board:
    """The rows behind one sink, by unit: a unit may lack some."""

    def __init__(self, part: pd.DataFrame) -> None:
        self._of = {str(name): at for at, name in enumerate(dict.fromkeys(part["strategy"]))}
        names = [*self._of]
        self._shares, self._kls = (
            part.pivot_table(index="unit", columns="strategy", values=figure, sort=False)[names].to_numpy()
            for figure in ("share", "kl")
        )
        self._has = ~np.isnan(self._kls)

    def on_front(self, strategy: str) -> bool:
        """Return whether no other row is as good in share and KL and better in one; noise is equal to 0."""
        mine = self._of[strategy]
        return not any(self._beats(other, mine) for other in self._of.values() if other != mine)

    def over_random(self, strategy: str) -> float:
        """Return its KL over that of random rows at its share, over the units that all of these rows have."""
        mine = self._of[strategy]
        rivals = [at for name, at in self._of.items() if method(name) in {"naive", "random"}]
        common = self._has[:, [mine, *rivals]].all(axis=1)
        if not common.any():
            return float("nan")
        points = [Point(float(self._shares[common, at].mean()), self._kls[common, at]) for at in rivals]
        rival = at_share(points, float(self._shares[common, mine].mean()))
        if rival is None or rival.mean() < NOISE:
            return float("nan")
        return float(self._kls[common, mine].mean()) / float(rival.mean())

    def _beats(self, other: int, mine: int) -> bool:
        common = self._has[:, other] & self._has[:, mine]
        if not common.any():
            return False
        (share, kl), (own_share, own_kl) = (self._place(at, common) for at in (other, mine))
        return share <= own_share and kl <= own_kl and (share, kl) != (own_share, own_kl)

    def _place(self, at: int, common: NDArray[np.bool_]) -> tuple[float, float]:
        kl = float(self._kls[common, at].mean())
        return round(float(self._shares[common, at].mean()), 6), 0.0 if kl < NOISE else kl


def widest(frame: pd.DataFrame) -> pd.DataFrame:
    """Return of each model the rows and units that make the largest table without a hole: the same units in every row.

    What is drawn is drawn of that, so that curves are of the same questions.
    """
    found = []
    for _, some in frame.groupby("model", sort=False):
        has: dict[str, set[tuple[str, str]]] = {}
        for unit, sink, strategy in zip(some["unit"], some["sink"], some["strategy"], strict=True):
            has.setdefault(str(unit), set()).add((str(sink), str(strategy)))
        ordered = sorted(has, key=lambda unit: -len(has[unit]))
        common = [set.intersection(*(has[unit] for unit in ordered[: n + 1])) for n in range(len(ordered))]
        best = max(range(len(ordered)), key=lambda at: (len(common[at]) * (at + 1), at))
        rows = [row in common[best] for row in zip(some["sink"], some["strategy"], strict=True)]
        found.append(some[np.array(rows) & some["unit"].astype(str).isin(ordered[: best + 1])])
    return pd.concat(found) if found else frame


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


def best(standings: pd.DataFrame, within: float) -> pd.DataFrame:
    """Return the row of each model that is nearest to full among those that compute at most the share ``within``.

    Only rows that have every unit of the model are compared: means of the same questions.
    """
    able = standings[(standings["share"] <= within) & standings["all"]]
    return able.sort_values(["kl", "share"]).groupby("model").head(1).sort_index()


def conclusion(standings: pd.DataFrame, within: float) -> str:
    """Return what the leaderboard says in one sentence: the nearest to full on each model, beside naive reuse."""
    naive = standings[standings["method"] == "naive"].set_index(["model", "sink"])["kl"]
    told, beaten = [], []
    for row in best(standings, within).to_dict("records"):
        between = "" if np.isnan(row["kl_low"]) else f" ({nats(row['kl_low'])} to {nats(row['kl_high'])})"
        reused, model, sink = nats(float(naive[row["model"], row["sink"]])), str(row["model"]), row["sink"]
        asked = plural(row["n"], str(row["over"]).removesuffix("s"))
        kl = f"{nats(row['kl'])}{between}"
        told.append(f"on {model} {row['strategy']} behind {sink} at KL {kl}, naive {reused}, {asked}")
        beaten += [model] if row["method"] in DUMB else []
    if not told:
        return f"**No strategy computes at most {within:.0%} of a prompt.**"
    warned = f"; a choice without a look at the model was enough on {', '.join(beaten)}" if beaten else ""
    return f"**Nearest to full for at most {within:.0%} of its compute: {'; '.join(told)}{warned}.**"
