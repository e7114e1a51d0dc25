"""What a self-check found: one row a check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbkv import show

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """What was checked.

    Rows of ``strategy`` (empty: the model itself), ``check``, ``error`` (the largest scaled difference; None if there
    is nothing to measure), ``limit``, ``ok`` and ``note``.
    """

    model: str
    strategy: str
    rows: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Return whether everything passed."""
        return all(row["ok"] for row in self.rows)

    def failed(self, spec: str) -> str:
        """Return the first check of the model or of strategy ``spec`` that failed; empty if none did."""
        own = [row for row in self.rows if row["strategy"] in {"", spec} and not row["ok"]]
        if not own:
            return ""
        row = own[0]
        what = row["note"] if row["error"] is None else f"error {row['error']:.1e}, limit {row['limit']:.1e}"
        return f"{row['check']}: {what}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able data."""
        return {
            "kind": "report",
            "model": self.model,
            "strategy": self.strategy,
            "ok": self.ok,
            "rows": list(self.rows),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row a check."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(list(self.rows))

    def __repr__(self) -> str:
        """Return the table as text."""
        return show.report_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.report_html(self.to_dict())


@dataclass
class Checks:
    """The rows of one strategy (empty: the model itself), in the order in which their checks first came.

    A check made on several prompts is one row: its largest error, or its first failure.
    """

    strategy: str = ""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def error(self, check: str, error: float, limit: float, note: str) -> None:
        """Take note of an ``error`` that may be ``limit`` at most."""
        known = self.rows.get(check)
        if known is None or (known["ok"] and known["error"] is None) or error > (known["error"] or 0.0):
            self._put(check, note, ok=error <= limit, error=error, limit=limit)

    def holds(self, check: str, *, ok: bool, note: str) -> None:
        """Take note of what is either so or not; the ``note`` says what is wrong, or what was found."""
        known = self.rows.get(check)
        if known is None or known["ok"]:
            self._put(check, note, ok=ok)

    def unchecked(self, check: str, note: str) -> None:
        """Say why nothing was checked, unless something was."""
        if check not in self.rows:
            self._put(check, note, ok=True)

    def _put(self, check: str, note: str, *, ok: bool, error: float | None = None, limit: float = 0.0) -> None:
        self.rows[check] = {
            "strategy": self.strategy,
            "check": check,
            "error": error,
            "limit": limit,
            "ok": ok,
            "note": note,
        }
