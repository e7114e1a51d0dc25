"""Numbers as a caller may give them: Python's or numpy's; booleans are none."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TypeGuard


def is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    """Return whether ``value`` is a whole number of at least ``least``."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def is_number(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is a real number, whole or not; infinite ones and NaN are."""
    return not isinstance(value, bool) and isinstance(value, Real)


def plain(value: object) -> object:
    """Return a number as Python's own, which JSON and torch take, and anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def kind_of(value: object) -> str:
    """Return what ``value`` is, as a message names it: ``an int``, ``a PosixPath``, ``None``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
