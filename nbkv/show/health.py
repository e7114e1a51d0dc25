"""The doctor's report as text and as HTML."""

from __future__ import annotations

from typing import Any

from nbkv.show.page import table_html, table_text, view

_COLUMNS = ("what", "found", "problem")


def health_text(health: dict[str, Any]) -> str:
    """Return one line a finding, and a verdict."""
    return f"{table_text(_COLUMNS, _rows(health), left=range(3))}\n{_verdict(health)}"


def health_html(health: dict[str, Any]) -> str:
    """Return the same as a view."""
    return view(table_html(_COLUMNS, _rows(health), left=range(3)) + f"<p>{_verdict(health)}</p>", "health")


def _rows(health: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["what"], each["found"], each["problem"]) for each in health["findings"]]


def _verdict(health: dict[str, Any]) -> str:
    return "nothing stands in the way" if health["ok"] else "see the problems above"
