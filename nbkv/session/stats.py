"""Meters listen to events and keep running figures; what they show is data, not tensors."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbkv import show
from nbkv.events import AnchorsKept, Event, Fallback, Finished, GateDecided, NotKept

if TYPE_CHECKING:
    import pandas as pd

_FARTHEST = 4  # times as many tokens as were measured, of which a time is told
_COLUMNS = (
    "request", "strategy", "prompt", "reused", "recomputed", "fresh", "hit_rate", "compute_share", "ttft_s", "tpot_s",
    "total_s", "generated", "finish_reason", "kl", "kl_max", "top1", "diverges_at", "floor", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Stats:
    """Running figures of a session at one moment, as plain data that knows how to be shown."""

    data: dict[str, Any]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any figure)
        """Return the figure ``name``."""
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return dict(self.data)

    def __repr__(self) -> str:
        """Return the figures as text."""
        return show.stats_text(self.data)

    def _repr_html_(self) -> str:
        return show.stats_html(self.data)


class Meter:
    """Hears a session's events; ``rows`` has one dict for each finished request."""

    def __init__(self) -> None:
        """Start at zero."""
        self.rows: list[dict[str, Any]] = []
        self.fallbacks = 0
        self.not_kept: list[str] = []
        self._gate: dict[str, list[GateDecided]] = {}
        self._anchors: list[AnchorsKept] = []

    def __call__(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, Finished):
            found = {"request": event.request} | event.result
            self.rows.append({name: found[name] for name in _COLUMNS})
        elif isinstance(event, Fallback):
            self.fallbacks += 1
        elif isinstance(event, NotKept):
            self.not_kept.append(event.why)
        elif isinstance(event, GateDecided):
            self._gate.setdefault(event.name, []).append(event)
        elif isinstance(event, AnchorsKept):
            self._anchors.append(event)

    def full_ttft_s(self, tokens: int) -> float | None:
        """Return about the seconds to the first token of a prompt of ``tokens`` that is computed whole.

        In proportion to the longest prompt that was; None where that is too short to say: short passes take longer a
        token, longer ones meet more keys.
        """
        whole = [row for row in self.rows if row["generated"] and row["compute_share"] == 1 and not row["reused"]]
        longest = max(whole, key=lambda row: row["prompt"], default=None)
        if longest is None or _FARTHEST * longest["prompt"] < tokens:
            return None
        return float(longest["ttft_s"] * tokens / longest["prompt"])

    def _by_strategy(self) -> dict[str, list[dict[str, Any]]]:
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            grouped.setdefault(row["strategy"], []).append(row)
        return grouped

    def frame(self) -> pd.DataFrame:
        """Return the finished requests as a table."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.rows, columns=list(_COLUMNS))

    def stats(self, **about: Any) -> Stats:  # noqa: ANN401  (any figure)
        """Return the running figures; ``about`` (session, model, strategy, tiers, evictions) is shown with them."""
        sums = {name: sum(row[name] for row in self.rows) for name in ("prompt", "reused", "recomputed", "fresh")}
        ttft = [row["ttft_s"] for row in self.rows if row["generated"]]
        decoded = sum(row["generated"] - 1 for row in self.rows if row["generated"] > 1)
        decode_s = sum(row["tpot_s"] * (row["generated"] - 1) for row in self.rows if row["generated"] > 1)
        figures = {
            "kind": "stats",
            "requests": len(self.rows),
            "prompt_tokens": sums["prompt"],
            "reused": sums["reused"],
            "recomputed": sums["recomputed"],
            "fresh": sums["fresh"],
            "generated": sum(row["generated"] for row in self.rows),
            "hit_rate": sums["reused"] / sums["prompt"] if sums["prompt"] else 0.0,
            "ttft_s": _spread(ttft),
            "tokens_per_s": decoded / decode_s if decode_s else 0.0,
            "fallbacks": self.fallbacks,
            "not_kept": {"count": len(self.not_kept), "last": self.not_kept[-1] if self.not_kept else ""},
            "strategies": {spec: _one(rows) for spec, rows in self._by_strategy().items()},
            "gate": {name: _decided(decisions) for name, decisions in self._gate.items()},
            "anchors": _kept(self._anchors),
        }
        return Stats(about | figures)


def _one(rows: list[dict[str, Any]]) -> dict[str, float | int | None]:
    """Return the running figures of the requests under one strategy; of fidelity, over the ``measured`` ones."""
    measured = [row for row in rows if row["kl"] is not None]
    kl, kl_max, top1 = ([row[name] for row in measured] for name in ("kl", "kl_max", "top1"))
    return {
        "requests": len(rows),
        "hit_rate": statistics.fmean(row["hit_rate"] for row in rows),
        "compute_share": statistics.fmean(row["compute_share"] for row in rows),
        "ttft_s": _mean([row["ttft_s"] for row in rows if row["generated"]]),
        "measured": len(measured),
        "kl": _mean(kl),
        "kl_max": max(kl_max, default=None),
        "top1": _mean(top1),
    }


def _decided(decisions: list[GateDecided]) -> dict[str, float | int | str | None]:
    """Return the running figures of the gate's decisions about one chunk name; ``why`` is that of the last refusal."""
    last = decisions[-1]
    looked = [each.entropy / each.bound for each in decisions if each.entropy is not None and each.bound]
    return {
        "accepted": sum(each.accepted for each in decisions),
        "refused": sum(not each.accepted for each in decisions),
        "anchors": last.anchors,
        "entropy": _mean(looked),
        "kl": last.kl,
        "explained": last.explained,
        "why": next((each.why for each in reversed(decisions) if each.why), ""),
    }


def _kept(changes: list[AnchorsKept]) -> dict[str, int]:
    """Return what the pool of anchors holds now, and how many have been evicted; empty where there was none."""
    if not changes:
        return {}
    last = changes[-1]
    evicted = sum(each.evicted for each in changes)
    return {"count": last.anchors, "bytes": last.nbytes, "limit": last.limit, "evicted": evicted}


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "last"), 0.0)
    pick: Callable[[float], float] = lambda q: sorted(values)[min(len(values) - 1, int(q * len(values)))]  # noqa: E731
    return {"mean": statistics.fmean(values), "p50": pick(0.5), "p90": pick(0.9), "last": values[-1]}
