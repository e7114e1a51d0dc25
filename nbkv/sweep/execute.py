"""Runs notebooks one after another, each with each setting of its parameters, and keeps the executed copies."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError
from nbkv.roster import ProcessWork, process_work
from nbkv.show.units import plural
from nbkv.stopping import Stopped
from nbkv.sweep.folder import report
from nbkv.sweep.machine import machine
from nbkv.sweep.plan import Job, inject, plan, settings
from nbkv.sweep.runs import FAILED, OK, Run, Sweep
from nbkv.sweep.values import packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

log = logging.getLogger("nbkv.sweep")
STOPPED = "stopped"  # the error of a run that somebody has stopped


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
    and page go to ``out_dir``, made if missing. Stopped, it returns what has run. Raises ``LoadError`` if a notebook is
    missing or is none, ``BadOption`` if no notebook declares one of the parameters, or a value is none that a notebook
    can be given.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm  # noqa: PLC0415  (`record` must not pay for it)

    jobs = plan(notebooks, dict(parameters or {}), settings(grid), Path(out_dir).expanduser().resolve())
    folder, runs, stopped = jobs[0].output.parent, [], ""
    with process_work("run", sum(job.cells for job in jobs)) as work:
        try:
            with logging_redirect_tqdm([logging.getLogger("nbkv")]):
                for at, job in enumerate(jobs, start=1):
                    log.info("[%d/%d] %s", at, len(jobs), job.output.stem)
                    runs.append(execute(job, work))
                    work.stopper.check()
        except Stopped:
            stopped = f"stopped after {len(runs) - 1} of {plural(len(jobs), 'run')}"
        except KeyboardInterrupt:
            with suppress(LoadError):  # a table of what has run; not even one may have
                report(folder)
            raise
    written = {run.path: run for run in report(folder).runs} if any(run.path.exists() for run in runs) else {}
    return Sweep(folder, tuple(written.get(run.path, run) for run in runs), stopped)


def execute(job: Job, work: ProcessWork) -> Run:
    """Run one notebook as a part of ``work``; what goes wrong is its Run's ``error``, what there is of it is kept."""
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    started, clock, error = datetime.now(UTC).isoformat(), time.perf_counter(), ""
    notebook = nbformat.v4.new_notebook()
    try:
        notebook = nbformat.read(job.notebook, as_version=4)
        inject(job.parameters, notebook)
        error = _executed(job, notebook, work)
    except Stopped:
        error = STOPPED
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


def _executed(job: Job, notebook: NotebookNode, work: ProcessWork) -> str:
    """Execute ``notebook`` into the job's output; return its last error line, or "" when it went well."""
    import papermill  # noqa: PLC0415  (slow to import)
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415

    from nbkv.sweep.cells import NAME  # noqa: PLC0415

    job.output.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            str(job.output).replace("{", "{{").replace("}", "}}"),  # papermill fills parameters into braces
            engine_name=NAME,
            work=work,
            called=job.output.stem,
            cells=job.cells,
            kernel_name="python3",
            language="python",
            cwd=job.notebook.parent,
            progress_bar=False,
            store_widget_state=False,
        )
    except PapermillExecutionError as failure:
        work.stopper.check()  # then it is what the kernel was interrupted for
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
