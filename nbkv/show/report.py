"""A self-check: what was checked, how large the error was, and whether it passed."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import table_html, table_text, view

COLUMNS = ("check", "error", "limit", "passed", "note")


def report_text(report: dict[str, Any]) -> str:
    """Return the verdict and the table of checks."""
    return f"{_headline(report)}\n{table_text(COLUMNS, _rows(report), left=(0, 4))}"


def report_html(report: dict[str, Any]) -> str:
    """Return the verdict and the table of checks."""
    table = table_html(COLUMNS, _rows(report), left=(0, 4))
    return view(f"<p><b>{escape(_headline(report))}</b></p>{table}", "report")


def _headline(report: dict[str, Any]) -> str:
    stopped = report.get("stopped")
    failed = not all(row["ok"] for row in report["rows"])
    verdict = "FAILED" if failed else f"{stopped}, no verdict" if stopped else "passed"
    return f"{report['strategy']} on {report['model']}: {verdict}"


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (row["check"], _error(row["error"]), _error(row["limit"]), "yes" if row["ok"] else "NO", row["note"])
        for row in report["rows"]
    ]


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
