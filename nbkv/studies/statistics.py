"""Strategies on the same questions: intervals, paired comparisons, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbkv.tasks.items import Item

_DRAWS = 2000


def interval(right: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``right``."""
    drawn = np.random.default_rng(0).choice(right, (_DRAWS, len(right))).mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def not_above(mine: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the paired bootstrap's p: how often a resample of the questions has ``mine`` no better than ``other``."""
    drawn = np.random.default_rng(0).choice(mine - other, (_DRAWS, len(mine))).mean(axis=1)
    return float((drawn <= 0).mean())


def verdicts(
    rows: Sequence[dict[str, Any]], items: Sequence[Item], published: Sequence[str], at: str
) -> list[dict[str, Any]]:
    """Hold the row ``at`` against each published method's best row of no larger compute share, or its cheapest row.

    One dict a sink, distance and method; ``gap`` is the part of the way from that row to the best oracle that ``at``
    has gone.
    """
    carried = np.array([item.kind == "carried" for item in items])
    found = []
    for sink in dict.fromkeys(row["sink"] for row in rows if row["sink"]):
        here = [row for row in rows if row["sink"] == sink]
        mine = next(row for row in here if row["strategy"] == at)
        for far in sorted({item.distance for item in items if item.distance}):
            asked = carried & np.array([item.distance == far for item in items])
            best = max(_right(row, asked).mean() for row in here if row["strategy"].startswith("oracle"))
            for name in published:
                theirs = [row for row in here if row["strategy"].startswith(name)]
                rivals = [row for row in theirs if row["share"] <= mine["share"]]
                if theirs:
                    cheapest = min(theirs, key=lambda row: float(row["share"]))
                    rival = _best(rivals or [cheapest], asked)
                    found.append(_against(mine, rival, asked, float(best)) | {"sink": sink, "distance": far})
    return found


def _best(rows: Sequence[dict[str, Any]], asked: NDArray[np.bool_]) -> dict[str, Any]:
    return max(rows, key=lambda row: float(_right(row, asked).mean()))


def _right(row: dict[str, Any], asked: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.array(row["right"], dtype=np.float64)[asked]


def _against(mine: dict[str, Any], rival: dict[str, Any], asked: NDArray[np.bool_], best: float) -> dict[str, Any]:
    ours, theirs = _right(mine, asked), _right(rival, asked)
    way = best - float(theirs.mean())
    return {
        "ours": float(ours.mean()),
        "rival": rival["strategy"],
        "theirs": float(theirs.mean()),
        "their_share": rival["share"],
        "p": not_above(ours, theirs),
        "gap": float((ours - theirs).mean()) / way if way > 0 else None,
    }


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    full = next(row for row in data["rows"] if row["strategy"] == "full")
    lines = [
        "# Chunk strategies on the ledger",
        "",
        f"Made by `make tables`: {data['regime']}.",
        "*Carried* questions need what an earlier chunk said, *local* ones only their own. The interval is the 95 %",
        "bootstrap's, *share* is all token-layers run over prompt x layers, selection passes included; KL (nats) is",
        f"that of the first answer token, on {data['measured']} questions; TTFT is full's over the strategy's.",
        "*primer*: chunks were encoded behind BOS and neutral text; what is published encodes them behind BOS alone.",
        "Methods that learn from prompts (cachecraft, kvshare) met the chunks once before, in reverse order.",
        "",
        "| strategy | sink | carried | 95 % | local | share | KL | TTFT ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        kl = "" if row["kl"] is None else f"{row['kl']:.1e}"
        lines.append(
            f"| {row['strategy']} | {row['sink']} | {row['carried']:.3f} | {row['low']:.2f} to {row['high']:.2f} "
            f"| {row['local']:.3f} | {row['share']:.3f} | {kl} | {full['ttft_s'] / row['ttft_s']:.2f} |"
        )
    lines += [
        "",
        f"`{data['at']}` against the best row of each published method with no larger share (or its cheapest row);",
        "p is the paired bootstrap's, *gap* the part of the way from that row to the best oracle that it has gone.",
        "",
        "| sink | distance | ours | rival | its share | theirs | p | gap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in data["verdicts"]:
        gap = "" if row["gap"] is None else f"{row['gap']:.2f}"
        lines.append(
            f"| {row['sink']} | {row['distance']} | {row['ours']:.2f} | {row['rival']} "
            f"| {row['their_share']:.3f} | {row['theirs']:.2f} | {row['p']:.3f} | {gap} |"
        )
    return "\n".join(lines) + "\n"
