"""Runs notebooks one after another, each with each setting of its parameters, and keeps the executed copies."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError
from nbkv.events import Advanced
from nbkv.show.progress import screen
from nbkv.sweep.folder import report
from nbkv.sweep.machine import machine
from nbkv.sweep.plan import Job, inject, plan, settings
from nbkv.sweep.runs import FAILED, OK, Run, Sweep
from nbkv.sweep.values import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

log = logging.getLogger("nbkv.sweep")


def run(
    notebooks: str | Path | Iterable[str | Path],
    parameters: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | None = None,
    out_dir: str | Path = "runs",
) -> Sweep:
    """Execute ``notebooks`` with papermill and gather the folder into ``results.csv`` and ``report.html``.

    Each notebook runs in its own folder and in a kernel of this very interpreter. A notebook that fails is kept as far
    as it came and the others still run; see ``Sweep.failed``. A folder holds all that was ever run into it: the same
    notebook with the same parameters takes the place of its earlier run.

    ``parameters`` are values for the cells tagged ``parameters``, a notebook gets those it declares; ``grid`` is
    ``{name: [values]}`` for every combination, or a list of ``{name: value}`` for just these. Executed notebooks, table
    and page go to ``out_dir``, made if missing. Raises ``LoadError`` if a notebook is missing or is none, ``BadOption``
    if no notebook declares one of the parameters, or a value is none that a notebook can be given.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm  # noqa: PLC0415  (`record` must not pay for it)

    jobs = plan(notebooks, dict(parameters or {}), settings(grid), Path(out_dir).expanduser().resolve())
    folder, progress = jobs[0].output.parent, SweepProgress(jobs)
    try:
        with logging_redirect_tqdm([logging.getLogger("nbkv")]):
            runs = [execute(job, progress.of(job)) for job in jobs]
    except KeyboardInterrupt:
        with suppress(LoadError):  # a table of what has run; not even one may have
            report(folder)
        raise
    finally:
        progress.over()
    written = {run.path: run for run in report(folder).runs} if any(run.path.exists() for run in runs) else {}
    return Sweep(folder, tuple(written.get(run.path, run) for run in runs))


class SweepProgress:
    """How many cells of all jobs have run: drawn, or in a log one line a job."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        """Count the cells."""
        self._cells = {job.output: job.cells for job in jobs}
        self._jobs, self._done = [job.output for job in jobs], 0

    def of(self, job: Job) -> Callable[[int], None]:
        """Return what is to be called with the number of each cell of ``job`` before it runs, counted from 0."""
        at, cells = self._jobs.index(job.output), self._cells[job.output]
        before = sum(self._cells[path] for path in self._jobs[:at])
        log.info("[%d/%d] %s", at + 1, len(self._jobs), job.output.stem)

        def tell(cell: int) -> None:
            self._done = before + cell
            self._tell(doing=f"{job.output.stem}, cell {cell + 1} of {cells}")

        return tell

    def over(self) -> None:
        """Nothing runs any more."""
        self._tell(over=True)

    def _tell(self, **fields: Any) -> None:  # noqa: ANN401  (fields of the event)
        screen(Advanced(work="run", done=self._done, total=sum(self._cells.values()), **fields))


def execute(job: Job, tell: Callable[[int], None]) -> Run:
    """Run one notebook; whatever goes wrong is the ``error`` of its Run, and what there is of it is kept."""
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    started, clock, error = datetime.now(UTC).isoformat(), time.perf_counter(), ""
    notebook = nbformat.v4.new_notebook()
    try:
        notebook = nbformat.read(job.notebook, as_version=4)
        inject(job.parameters, notebook)
        error = _executed(job, notebook, tell)
    except Exception as failure:  # noqa: BLE001  (one bad job may not end the others)
        error = _told(failure)
    duration_s = round(time.perf_counter() - clock, 3)
    try:
        if job.output.exists():  # as far as it came
            notebook = nbformat.read(job.output, as_version=4)
        error = error or _quiet_failure(notebook)
        notebook.metadata["nbkv"] = {
            "notebook": job.notebook.name,
            "parameters": [[name, packed(value)] for name, value in job.parameters.items()],  # files sort a dict's keys
            "started": started,
            "duration_s": duration_s,
            "error": error,
            "machine": machine(),
        }
        nbformat.write(notebook, job.output)
    except Exception as failure:  # noqa: BLE001  (as above: the disk may be full)
        error = error or _told(failure)
    if error:
        kept = f" (kept in {job.output})" if job.output.is_file() else ""
        log.warning("%s failed: %s%s", job.notebook.name, error, kept)
    return Run(
        path=job.output,
        notebook=job.notebook.name,
        parameters=job.parameters,
        duration_s=duration_s,
        status=FAILED if error else OK,
        error=error,
    )


def _executed(job: Job, notebook: NotebookNode, tell: Callable[[int], None]) -> str:
    """Execute ``notebook`` into the job's output; return its last error line, or "" when it went well."""
    import papermill  # noqa: PLC0415  (slow to import)
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415

    from nbkv.sweep.cells import NAME  # noqa: PLC0415
    from nbkv.sweep.kernel import ThisInterpreter  # noqa: PLC0415

    job.output.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            str(job.output).replace("{", "{{").replace("}", "}}"),  # papermill fills parameters into braces
            engine_name=NAME,
            tell=tell,
            kernel_name="python3",
            language="python",
            cwd=job.notebook.parent,
            progress_bar=False,
            kernel_manager_class=ThisInterpreter,
            store_widget_state=False,
        )
    except PapermillExecutionError as failure:
        return _last_line(failure.evalue if failure.ename == "CellExecutionError" else _spoken(failure))
    return ""


def _quiet_failure(notebook: NotebookNode) -> str:
    """Return the error of a cell that failed without an error output: a UsageError is only a line on its stderr."""
    for cell in notebook.cells:
        if cell.metadata.get("papermill", {}).get("exception"):
            said = "".join(output.get("text", "") for output in cell.get("outputs", []))
            return _last_line(said) or "the cell failed without a message"
    return ""


def _told(failure: Exception) -> str:
    return _last_line(f"{type(failure).__name__}: {failure}")


def _spoken(failure: PapermillExecutionError) -> str:
    return f"{failure.ename}: {failure.evalue}" if failure.evalue else str(failure.ename)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
