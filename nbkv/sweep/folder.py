"""A folder of executed notebooks: what ran with which parameters, what it recorded, and how it ended."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError
from nbkv.sweep.records import recorded

if TYPE_CHECKING:
    import pandas as pd
    from nbformat import NotebookNode

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
        import pandas as pd  # noqa: PLC0415  (only for tables)

        rows = [run.to_dict() for run in self.runs]
        tail = ["duration_s", "status", "error"]
        columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in tail]
        return pd.DataFrame(rows, columns=[*columns, *tail])

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
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{self.to_frame().to_html(index=False)}"


def report(folder: str | Path) -> Sweep:
    """Read every notebook that was run into ``folder`` and write its ``results.csv`` and ``report.html`` anew.

    Raises
    ------
    LoadError
        If there is no such folder or nothing was run into it.
    """
    from nbkv.sweep.html_report import page  # noqa: PLC0415  (plotly, only when a page is written)

    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        message = f"no folder {folder}: give the one that `nbkv run -o` wrote to"
        raise LoadError(message)
    found = [(notebook, read(path, notebook)) for path, notebook in executed(folder)]
    if not found:
        message = f"nothing was run into {folder}: give the folder that `nbkv run -o` wrote to"
        raise LoadError(message)
    sweep = Sweep(folder, tuple(run for _, run in found))
    sweep.to_frame().to_csv(sweep.results, index=False)
    sweep.report.write_text(page(sweep, [notebook for notebook, _ in found]), encoding="utf-8")
    return sweep


def executed(folder: Path) -> list[tuple[Path, NotebookNode]]:
    """Return the notebooks in ``folder`` that ``run`` executed, in the order they were started."""
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    found = []
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if "nbkv" in notebook.metadata:
            found.append((path, notebook))
    return sorted(found, key=lambda pair: str(pair[1].metadata["nbkv"]["started"]))


def read(path: Path, notebook: NotebookNode) -> Run:
    """Return what the executed ``notebook`` at ``path`` says about its run."""
    note = notebook.metadata["nbkv"]
    return Run(
        path=path,
        notebook=note["notebook"],
        parameters=dict(note["parameters"]),
        records=recorded(notebook),
        duration_s=note["duration_s"],
        status=FAILED if note["error"] else OK,
        error=note["error"],
    )
