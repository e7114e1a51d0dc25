"""How a benchmark measures: candidates in turn, A B A B, medians after a warm-up, and the regime they ran in."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

WARM_UP = 1
CONTEXT = 2048  # cached tokens, where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One comparison: ``baseline``, ``ours`` and ``floor`` are medians in seconds, ``against`` names the baseline.

    ``ratio`` is ours over the baseline and ``floor_ratio`` ours over the floor: below one is faster. ``refused`` says
    why there are no figures: outputs that differ, or a baseline that is not there. ``strategy`` says which one is ours
    where a benchmark has several, ``ideal`` how many times less arithmetic it does than the baseline.
    """

    name: str
    regime: dict[str, Any]
    against: str
    baseline: float | None = None
    ours: float | None = None
    floor: float | None = None
    notes: tuple[str, ...] = ()
    refused: str = ""
    missing: str = ""
    strategy: str = ""
    ideal: float | None = None

    @property
    def ratio(self) -> float | None:
        """Return ours over the baseline."""
        return _over(self.ours, self.baseline)

    @property
    def floor_ratio(self) -> float | None:
        """Return ours over the floor."""
        return _over(self.ours, self.floor)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-able data."""
        return asdict(self) | {"ratio": self.ratio, "floor_ratio": self.floor_ratio, "notes": list(self.notes)}


@dataclass(frozen=True)
class TimedCandidate:
    """Something to time: ``prepare`` is not timed and its return value is what ``work`` gets."""

    name: str
    work: Callable[[Any], object]
    prepare: Callable[[], Any] = field(default=lambda: None)


def interleaved(candidates: list[TimedCandidate], rounds: int) -> dict[str, float]:
    """Return each candidate's median seconds over ``rounds`` rounds in which they take turns, after a warm-up.

    A candidate's ``work`` may return its own figure in seconds (a float), for what is a part of what it does.
    """
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for number in range(WARM_UP + rounds):
        for candidate in candidates:
            ready = candidate.prepare()
            gc.collect()
            start = time.perf_counter()
            told = candidate.work(ready)
            spent = time.perf_counter() - start
            if number >= WARM_UP:
                seconds[candidate.name].append(told if isinstance(told, float) else spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(rows: list[BenchRow]) -> str:
    """Return rows as text: one line each, under the regime they were measured in."""
    lines, regime = [], None
    for row in rows:
        if row.regime != regime:
            regime = row.regime
            lines.append("# " + ", ".join(f"{name} {value}" for name, value in regime.items()))
        ours = f"{row.strategy}: " if row.strategy else ""
        lines.append(f"{row.name:<12} {ours}{_line(row)}")
        lines += [f"{'':<12}   {note}" for note in row.notes]
    return "\n".join(lines)


def _line(row: BenchRow) -> str:
    if row.refused or row.missing:
        word = f"refused: {row.refused}" if row.refused else f"not measured: {row.missing}"
        return f"against {row.against}: {word}"
    floor = f", {row.floor_ratio:.2f} x the floor of {_ms(row.floor)}" if row.floor else ""
    return f"{_ms(row.ours)} = {row.ratio:.3f} x {row.against} ({_ms(row.baseline)}){floor}"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"


def _over(ours: float | None, other: float | None) -> float | None:
    return ours / other if ours is not None and other else None
