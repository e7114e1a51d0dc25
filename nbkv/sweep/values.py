"""Values that go into notebooks and come out again: made plain, written as Python, and kept in JSON as they are."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from nbkv.errors import BadOption

ACCEPTED = "a number, a text, None, a date, a path, or a list, tuple, range, array or dict of these"
_KIND, _VALUE = "nbkv", "value"  # how JSON has what it does not know


def plain(name: str, value: Any) -> Any:  # noqa: ANN401, PLR0911  (any value of a notebook; one line a kind)
    """Return ``value`` as Python's own numbers, texts, lists, tuples and dicts.

    numpy's and torch's numbers and arrays, ranges, paths and dates become numbers, lists and texts. Raises
    ``BadOption``, naming ``name``, for anything else.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)  # also of an enumeration
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, tuple):
        return tuple(plain(name, each) for each in value)
    if isinstance(value, (list, range)):
        return [plain(name, each) for each in value]
    if isinstance(value, Mapping):
        return {plain(name, key): plain(name, each) for key, each in value.items()}
    if callable(listed := getattr(value, "tolist", None)):  # arrays and scalars of numpy and torch, pandas' columns
        return plain(name, listed())
    message = f"{name} is {_a(type(value).__name__)} (accepted: {ACCEPTED})"
    raise BadOption(message)


def literal(value: Any) -> str:  # noqa: ANN401  (as ``plain`` gives it)
    """Return the Python expression that gives ``value``."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(each)}' for key, each in value.items())}}}"
    return repr(value)


def packed(value: Any) -> Any:  # noqa: ANN401  (as ``plain`` gives it)
    """Return ``value`` as JSON keeps it: numbers that are none, tuples and dicts with other keys than texts marked."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_KIND: "float", _VALUE: str(value)}
    if isinstance(value, tuple):
        return {_KIND: "tuple", _VALUE: [packed(each) for each in value]}
    if isinstance(value, list):
        return [packed(each) for each in value]
    if isinstance(value, dict):
        if _KIND in value or not all(isinstance(key, str) for key in value):
            return {_KIND: "dict", _VALUE: [[packed(key), packed(each)] for key, each in value.items()]}
        return {key: packed(each) for key, each in value.items()}
    return value


def unpacked(value: Any) -> Any:  # noqa: ANN401  (as ``packed`` gives it)
    """Return what ``packed`` was given."""
    if isinstance(value, list):
        return [unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind, inner = value.get(_KIND), value.get(_VALUE)
    if kind == "float":
        return float(str(inner))
    if kind == "tuple":
        return tuple(unpacked(each) for each in inner or ())
    if kind == "dict":
        return {unpacked(key): unpacked(each) for key, each in inner or ()}
    return {key: unpacked(each) for key, each in value.items()}


def _a(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiouAEIOU' else 'a'} {noun}"
