"""What was recorded, as people read it: its unit, numbers without noise, nothing nested, no brackets or quotes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nbkv.show.units import share, size

_ENDS = {"s": "s", "seconds": "s", "ms": "ms", "us": "us", "bytes": "bytes", "kl": "nats", "nats": "nats"}
_ENDS |= {"tokens": "tokens", "share": "of 1", "rate": "of 1", "percent": "%"}
_SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_WHOLE = 1_000  # numbers from here on have no decimals


class Column(NamedTuple):
    """A column of a table to read: its ``name`` with the unit of all ``cells``; ``numbers``: nothing else is in it."""

    name: str
    cells: tuple[str, ...]
    numbers: bool


def unit_of(name: str, units: Mapping[str, str]) -> str:
    """Return the unit of a column, "" where none is known: the recorded one, else what the name ends with.

    ``ttft_s`` is in seconds, ``tokens_per_s`` in tokens/s, ``kl`` in nats; ``seconds full``, a part of what was
    recorded as ``seconds``, has its unit.
    """
    own = name.removeprefix("record.").removeprefix("parameter.")
    if own in units:
        return units[own]
    whole = own.partition(" ")[0]
    if whole in units:
        return units[whole]
    if rate := re.fullmatch(r"(\w+)_per_(\w+)", whole):
        return f"{rate[1].rpartition('_')[2]}/{rate[2]}"
    return _ENDS.get(whole.rpartition("_")[2], "")


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return ``values`` with what is nested in dicts under names of its own: ``kl`` of ``h2o`` is ``kl h2o``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{before} {name}".strip()
        found |= flat(value, full) if isinstance(value, dict) else {full: value}
    return found


def said(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    """Return ``value`` as people read it: no dicts, brackets or quotes, numbers with four digits or more."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.0f}" if _WHOLE <= abs(value) < 1e15 else f"{value:.4g}"  # noqa: PLR2004  (digits of a float)
    if isinstance(value, dict):
        return ", ".join(f"{name} {said(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value))
    return "" if value is None else str(value)


def measured(value: Any, unit: str) -> str:  # noqa: ANN401  (any value of a notebook)
    """Return ``value`` in a sentence, with its unit: bytes as ``5.8 GB``, shares as ``95 %``, three digits."""
    if not is_number(value):
        return said(value)
    if unit == "bytes":
        return size(value) if value >= 0 else f"-{size(-value)}"
    if unit == "of 1":
        return share(value)
    return f"{f'{value:.3g}' if abs(value) < _WHOLE and isinstance(value, float) else said(value)} {unit}".strip()


def scaled(values: Sequence[float], unit: str) -> tuple[str, float]:
    """Return the unit in which all ``values`` are easily read, and how many of theirs it is: shares are per cent."""
    if unit == "of 1":
        return "%", 0.01
    if unit == "bytes":
        return next((each for each in _SIZES if max(map(abs, values), default=0) >= each[1]), ("B", 1.0))
    return unit, 1.0


def column(name: str, values: Sequence[Any], unit: str) -> Column:
    """Return the values as one column, all in one unit, so that they can be compared."""
    known = [value for value in values if is_number(value)]
    numbers = bool(known) and all(value is None or is_number(value) for value in values)
    unit, scale = scaled(known, unit) if numbers else (unit, 1.0)
    cells = tuple(said(value / scale if scale != 1 and value is not None else value) for value in values)
    return Column(titled(name, unit), cells, numbers)


def titled(name: str, unit: str) -> str:
    """Return what stands above a column or beside an axis."""
    return f"{name} ({unit})" if unit else name


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
