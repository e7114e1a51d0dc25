"""Options that several families have, and what they may be."""

from __future__ import annotations

from nbkv.errors import BadOption


def check_share(name: str, value: object) -> None:
    """Raise ``BadOption`` unless ``value`` is a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        message = f"{name}={value!r} is not accepted: {name} is a share between 0 and 1"
        raise BadOption(message)


def check_count(name: str, value: object, least: int = 0) -> None:
    """Raise ``BadOption`` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name}={value!r} is not accepted: {name} is a whole number >= {least}"
        raise BadOption(message)


def check_keep(value: object) -> None:
    """Raise ``BadOption`` unless ``value`` is a share in (0, 1] or a whole number of tokens >= 1."""
    share = isinstance(value, float) and 0 < value <= 1
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (share or number):
        message = f"keep={value!r} is not accepted: keep is a share in (0, 1] (a float) or a number of tokens >= 1"
        raise BadOption(message)


def check_rows(rows: object) -> None:
    """Raise ``BadOption`` unless ``rows`` is None or a whole number >= 1."""
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        message = f"rows={rows!r} is not accepted: rows is a whole number of tokens >= 1, or None"
        raise BadOption(message)
