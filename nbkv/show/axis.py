"""An axis: from where to where it goes, and at which round values it has ticks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

_ROUND = (1, 2, 2.5, 5, 10)
_FEW = 5  # steps


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``, ticks at ``at`` that read ``labels``; ``log``: by powers of ten."""

    low: float
    high: float
    at: tuple[float, ...]
    labels: tuple[str, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Return where ``value`` lies, 0 at the low end and 1 at the high one; what lies outside is put on the end."""
        low, high, at = self.low, self.high, max(value, self.low)
        if self.log:
            low, high, at = log10(low), log10(high), log10(at)
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def plotly(self) -> dict[str, Any]:
        """Return the same in plotly's words."""
        ends = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        room = (ends[1] - ends[0]) * 0.02  # a point on an end is seen whole
        ticks = {"tickvals": list(self.at), "ticktext": list(self.labels)}
        return {"type": "log" if self.log else "linear", "range": [ends[0] - room, ends[1] + room], **ticks}


def share_axis(values: Iterable[float] = ()) -> Axis:
    """Return an axis of shares: 0 to 100 %, farther where a value is."""
    high = max(1.0, *values, 1.0)
    if high <= 1:
        return Axis(0, 1, (0, 0.25, 0.5, 0.75, 1), ("0 %", "25 %", "50 %", "75 %", "100 %"))
    at = _steps(0, high, whole=False)
    return Axis(0, max(high, at[-1]), at, tuple(f"{100 * each:.0f} %" for each in at))


def number_axis(values: Sequence[float], *, zero: bool = True) -> Axis:
    """Return an axis of numbers, from 0 where ``zero``; ticks are whole numbers if all ``values`` are."""
    whole = all(float(value).is_integer() for value in values)
    known = [*values, 0.0] if zero else [*values]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low == high:
        low, high = (low - 1, high + 1) if low else (0.0, 1.0)
    at = _steps(low, high, whole=whole)
    return Axis(min(low, at[0]), max(high, at[-1]), at, tuple(f"{each:,.10g}" for each in at))


def log_axis(values: Iterable[float], lowest: float) -> Axis:
    """Return a logarithmic axis down to ``lowest``, a power of ten; what is less lies there too, as its tick says."""
    known = [max(value, lowest) for value in values]
    first, last = round(log10(lowest)), ceil(log10(max(known, default=1.0)) - 1e-9)
    last = max(last, first + 1)
    powers = range(first, last + 1, max(1, ceil((last - first) / _FEW)))
    first_label, *labels = (f"{10.0**power:g}" for power in powers)
    at = tuple(10.0**power for power in powers)
    return Axis(10.0**first, 10.0**last, at, (f"≤ {first_label}", *labels), log=True)


def _steps(low: float, high: float, *, whole: bool) -> tuple[float, ...]:
    """Return at most about six round values around ``low`` to ``high``."""
    rough = (high - low) / _FEW
    power = 10.0 ** floor(log10(rough))
    step = next(each * power for each in _ROUND if each * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, ceil(step))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(round(number * step, 12) for number in range(first, last + 1))
