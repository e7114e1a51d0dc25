"""A self-check: what was checked, how large the error was, and whether it passed."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import emphasised, table_html, table_text, view
from nbkv.show.units import UNKNOWN

COLUMNS = ("check", "error", "limit", "passed", "note")
_FAILED = "NO"


def report_text(report: dict[str, Any]) -> str:
    """Return the verdict and the table of checks."""
    return f"{_headline(report)}\n{table_text(COLUMNS, _rows(report), left=(0, 4))}"


def report_html(report: dict[str, Any]) -> str:
    """Return the verdict and the table of checks."""
    failed_first = sorted(_rows(report), key=lambda row: row[3] != _FAILED)
    table = table_html(COLUMNS, [emphasised(r) if r[3] == _FAILED else r for r in failed_first], left=(0, 4))
    return view(f"<p><b>{escape(_headline(report))}</b></p>{table}", "report")


def _headline(report: dict[str, Any]) -> str:
    stopped = report.get("stopped")
    failed = not all(row["ok"] for row in report["rows"])
    verdict = "FAILED" if failed else f"{stopped}, no verdict" if stopped else "passed"
    return f"{report['strategy']} on {report['model']}: {verdict}"


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["check"],
            _error(row["error"]),
            _error(row["limit"]) if row["error"] is not None else UNKNOWN,
            "yes" if row["ok"] else _FAILED,
            row["note"],
        )
        for row in report["rows"]
    ]


def _error(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1e}" if value else "0"
