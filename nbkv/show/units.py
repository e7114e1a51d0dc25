"""Numbers as people read them; what is not known is a dash."""

from __future__ import annotations

from math import isfinite

UNKNOWN = "–"


def seconds(value: float | None) -> str:
    """Return a duration with three significant digits: ``850 µs``, ``31.2 ms``, ``2.05 s``, ``3 min 20 s``."""
    if value is None or not isfinite(value):
        return UNKNOWN
    if value >= 100:  # noqa: PLR2004
        return f"{int(value) // 60} min {int(value) % 60} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{_three_digits(value / scale)} {unit}"
    return f"{value * 1e6:.0f} µs" if value > 0 else "0 ms"


def size(n_bytes: float | None) -> str:
    """Return a number of bytes: ``512 B``, ``1.5 kB``, ``2.1 GB`` (powers of 1000)."""
    if n_bytes is None:
        return UNKNOWN
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{_three_digits(n_bytes / scale)} {unit}"
    return f"{n_bytes:.0f} B"


def share(value: float | None) -> str:
    """Return a share as per cent; what is nearly 0 or 100 % is not rounded to it."""
    if value is None or not isfinite(value):
        return UNKNOWN
    if 0 < value < 0.001:  # noqa: PLR2004
        return "<0.1 %"
    if 0.999 < value < 1:  # noqa: PLR2004
        return ">99.9 %"
    near_an_end = 0 < value < 0.01 or 0.99 < value < 1  # noqa: PLR2004
    return f"{100 * value:.1f} %" if near_an_end else f"{100 * value:.0f} %"


def times(value: float | None) -> str:
    """Return a factor: ``0.95×``, ``3.2×``, ``48×``."""
    if value is None or not isfinite(value):
        return UNKNOWN
    return f"{_three_digits(value) if value < 10 else f'{value:.0f}'}×"  # noqa: PLR2004


def count(value: float | None) -> str:
    """Return a whole number with thousands separated."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Return tokens per second."""
    if not value or not isfinite(value):
        return UNKNOWN
    return f"{_three_digits(value) if value < 10 else f'{value:,.0f}'} tokens/s"  # noqa: PLR2004


def nats(value: float | None) -> str:
    """Return a divergence; below a millionth it is arithmetic noise and shown as 0."""
    if value is None or not isfinite(value):
        return UNKNOWN
    return "0" if abs(value) < 1e-6 else f"{value:.2g}"  # noqa: PLR2004


def distance(value: float | None, floor: float | None) -> str:
    """Return a divergence, and say so where it is no more than the model's own noise, ``floor``."""
    if value is None or floor is None or value > floor or not value:
        return nats(value)
    return f"{nats(value)} (noise)" if nats(value) != "0" else "0"


def yes(value: bool | None) -> str:  # noqa: FBT001  (a cell of a table)
    """Return yes, no, or a dash where it was not measured."""
    return UNKNOWN if value is None else "yes" if value else "no"


def cut(text: str, limit: int) -> str:
    """Return ``text`` in at most ``limit`` characters, its end replaced by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plural(n: int, noun: str, many: str = "") -> str:
    """Return ``1 token``, ``2,048 tokens``; ``many`` is a plural that is not made with an s."""
    return f"{n:,} {noun if n == 1 else many or f'{noun}s'}"


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2  # noqa: PLR2004
    return f"{value:.{digits}f}"
