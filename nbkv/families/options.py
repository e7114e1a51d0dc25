"""What the options of strategies may be: every check of one is here, and refuses in the same words.

Numbers may be numpy's. They become Python's, so that a strategy's ``spec`` reads back; booleans are no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from nbkv.errors import BadOption
from nbkv.scalars import is_number, is_whole, plain
from nbkv.strategy import Strategy

_CONTEXTS = ("none", "chunks", "turns")


def whole_numbers(value: object) -> tuple[int, ...] | None:
    """Return a list or tuple of whole numbers >= 0 as a tuple; None if ``value`` is anything else."""
    fits = isinstance(value, (list, tuple)) and all(is_whole(each) for each in value)
    return tuple(map(int, value)) if fits else None  # type: ignore[call-overload]


def check(strategy: Strategy, name: str, fits: Callable[[Any], bool], accepted: str) -> None:
    """Raise ``BadOption`` unless ``fits`` is true of option ``name``; the message says what is ``accepted``."""
    value = getattr(strategy, name)
    if not fits(value):
        message = f"{name}={value!r} is not accepted: {name} is {accepted}"
        raise BadOption(message)
    setattr(strategy, name, plain(value))


def check_share(strategy: Strategy, *names: str) -> None:
    """Raise ``BadOption`` unless the options ``names`` are numbers between 0 and 1."""
    for name in names:
        check(strategy, name, lambda value: is_number(value) and 0 <= value <= 1, "a share between 0 and 1")


def check_count(strategy: Strategy, *names: str, least: int = 0) -> None:
    """Raise ``BadOption`` unless the options ``names`` are whole numbers of at least ``least``."""
    for name in names:
        check(strategy, name, lambda value: is_whole(value, least), f"a whole number >= {least}")


def check_choice(strategy: Strategy, name: str, choices: Sequence[str]) -> None:
    """Raise ``BadOption`` unless option ``name`` is one of ``choices``."""
    check(strategy, name, lambda value: value in choices, " or ".join(map(repr, choices)))


def check_keep(strategy: Strategy) -> None:
    """Raise ``BadOption`` unless ``keep`` is a share in (0, 1] or a whole number of tokens >= 1."""

    def fits(value: object) -> bool:
        return is_whole(value, 1) or (not isinstance(value, Integral) and is_number(value) and 0 < value <= 1)

    check(strategy, "keep", fits, "a share in (0, 1] (a float) or a number of tokens >= 1")


def check_rows(strategy: Strategy) -> None:
    """Raise ``BadOption`` unless ``rows`` is None or a whole number >= 1."""
    check(strategy, "rows", lambda value: value is None or is_whole(value, 1), "a whole number of tokens >= 1, or None")


def check_context(strategy: Strategy) -> None:
    """Raise ``BadOption`` unless ``context`` says where a compressed context ends."""
    accepted = f"{', '.join(_CONTEXTS)}, or a number of tokens >= 1"
    check(strategy, "context", lambda value: is_whole(value, 1) or value in _CONTEXTS, accepted)
