"""One executed notebook, and all that were run into a folder."""

from __future__ import annotations

import html
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.show.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.show.frame import Frame

PATH = "path"
COLUMNS = ("run", "notebook", "duration_s", "status", "error")  # a run's own
OK, FAILED = "ok", "failed"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One executed notebook: ``path`` is the executed copy, ``error`` its last error line ("" when it went well).

    ``units`` are those of records, as far as they were said; ``seeds`` those that the notebook has itself, where no
    parameter gave them; ``machine`` is on what and with which versions, and of which commit, it was run.
    """

    path: Path
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    duration_s: float = 0.0
    status: str = OK
    error: str = ""

    def to_dict(self, apart: Collection[str] = ()) -> dict[str, Any]:
        """Return the run as one flat row: parameters and records under their own names.

        Where such a name is that of a column of the run's own it is ``parameter.name`` or ``record.name``; of both a
        parameter and a record (here, or in one of the runs beside it: ``apart``) the record has it, and the parameter
        is ``parameter.name``.
        """
        taken = {"parameter": {*apart, *COLUMNS, *self.records}, "record": set(COLUMNS)}
        row = {"run": self.path.name, "notebook": self.notebook}
        for kind, values in (("parameter", self.seeds | self.parameters), ("record", self.records)):
            row |= {f"{kind}.{name}" if name in taken[kind] else name: value for name, value in values.items()}
        return row | {"duration_s": self.duration_s, "status": self.status, "error": self.error}


@dataclass(frozen=True)
class Sweep:
    """The runs in ``folder``, whose ``results.csv`` and ``report.html`` hold the same.

    ``stopped`` says how far it came where somebody has stopped it, else "". ``before`` are the names of those that had
    run to their end before, with the same content, and were not run again.
    """

    folder: Path
    runs: tuple[Run, ...]
    stopped: str = ""
    before: frozenset[str] = frozenset()

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

    @property
    def units(self) -> dict[str, str]:
        """Return the units that were said when something was recorded, by name; the last run's where they differ."""
        return {name: unit for run in self.runs for name, unit in run.units.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row a run; a name that is a parameter of one and a record of another stays apart in all."""
        parameters = {name for run in self.runs for name in run.seeds | run.parameters}
        apart = parameters & {name for run in self.runs for name in run.records}
        return [run.to_dict(apart) for run in self.runs]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a run: parameters, records, duration, status."""
        return self._table()

    def _table(self) -> Frame:
        from nbkv.show.frame import Frame  # noqa: PLC0415  (only for tables)

        rows = self.rows()
        tail = ["duration_s", "status", "error"]
        columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in tail]
        return Frame(rows, columns=[*columns, *tail])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "kind": "sweep",
            "folder": str(self.folder),
            "runs": [asdict(run) | {PATH: run.path.name} for run in self.runs],
            "stopped": self.stopped,
            "before": sorted(self.before),
        }

    def __repr__(self) -> str:
        """Return counts, what was not run again, and the place of the page."""
        stopped = f"{self.stopped}, " if self.stopped else ""
        before = f" ({len(self.before)} ended before, not run again)" if self.before else ""
        return f"<Sweep: {stopped}{plural(len(self.runs), 'run')}{before}, {len(self.failed)} failed, {self.report}>"

    def _repr_html_(self) -> str:
        table = self._table()
        table["status"] = [f"{run.status}, before" if run.path.name in self.before else run.status for run in self.runs]
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table._repr_html_()}"
