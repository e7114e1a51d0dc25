"""One executed notebook, and all that were run into a folder."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.show.frame import Frame

PATH = "path"
OK, FAILED = "ok", "failed"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One executed notebook: ``path`` is the executed copy, ``error`` its last error line ("" when it went well)."""

    path: Path
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    status: str = OK
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the run as one flat row: parameters and records under their own names."""
        head = {"run": self.path.name, "notebook": self.notebook}
        tail = {"duration_s": self.duration_s, "status": self.status, "error": self.error}
        return head | self.parameters | self.records | tail


@dataclass(frozen=True)
class Sweep:
    """The runs in ``folder``, whose ``results.csv`` and ``report.html`` hold the same."""

    folder: Path
    runs: tuple[Run, ...]

    @property
    def results(self) -> Path:
        """Return the path of the table."""
        return self.folder / "results.csv"

    @property
    def report(self) -> Path:
        """Return the path of the page."""
        return self.folder / "report.html"

    @property
    def failed(self) -> tuple[Run, ...]:
        """Return the runs that did not reach their end."""
        return tuple(run for run in self.runs if run.status != OK)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a run: parameters, records, duration, status."""
        return self._table()

    def _table(self) -> Frame:
        from nbkv.show.frame import Frame  # noqa: PLC0415  (only for tables)

        rows = [run.to_dict() for run in self.runs]
        tail = ["duration_s", "status", "error"]
        columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in tail]
        return Frame(rows, columns=[*columns, *tail])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "kind": "sweep",
            "folder": str(self.folder),
            "runs": [asdict(run) | {PATH: run.path.name} for run in self.runs],
        }

    def __repr__(self) -> str:
        """Return counts and the place of the page."""
        return f"<Sweep: {len(self.runs)} runs, {len(self.failed)} failed, {self.report}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self._table()._repr_html_()}"
