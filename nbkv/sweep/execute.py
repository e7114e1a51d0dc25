"""Runs notebooks one after another, each with each setting of its parameters, and keeps the executed copies."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError
from nbkv.sweep.folder import report
from nbkv.sweep.machine import machine
from nbkv.sweep.plan import Job, plan, settings
from nbkv.sweep.runs import Sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    if no notebook declares one of the parameters.
    """
    from tqdm import tqdm  # noqa: PLC0415  (`record` must not pay for it)
    from tqdm.contrib.logging import logging_redirect_tqdm  # noqa: PLC0415

    jobs = plan(notebooks, dict(parameters or {}), settings(grid), Path(out_dir).expanduser().resolve())
    folder = jobs[0].output.parent
    single = len(jobs) == 1
    bar = tqdm(jobs, desc="notebooks", unit="run", disable=True if single else None)
    try:
        with logging_redirect_tqdm([logging.getLogger("nbkv")]):
            for number, job in enumerate(bar, start=1):
                bar.set_postfix_str(job.output.name)
                if bar.disable:
                    log.info("[%d/%d] %s", number, len(jobs), job.output.name)
                error = execute(job, progress=single and sys.stderr.isatty())
                if error:
                    log.warning("%s failed: %s (kept in %s)", job.notebook.name, error, job.output)
    except KeyboardInterrupt:
        with suppress(LoadError):  # a table of what has run; not even one may have
            report(folder)
        raise
    sweep = report(folder)
    names = {job.output for job in jobs}
    return Sweep(sweep.folder, tuple(one for one in sweep.runs if one.path in names))


def execute(job: Job, *, progress: bool) -> str:
    """Run one notebook; return its last error line, or "" when it went well."""
    import nbformat  # noqa: PLC0415
    import papermill  # noqa: PLC0415  (slow to import)
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415

    from nbkv.sweep.kernel import ThisInterpreter  # noqa: PLC0415

    started, clock, error = datetime.now(UTC).isoformat(), time.perf_counter(), ""
    job.output.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            job.notebook,
            job.output,
            job.parameters,
            kernel_name="python3",
            language="python",
            cwd=job.notebook.parent,
            progress_bar=progress,
            kernel_manager_class=ThisInterpreter,
            store_widget_state=False,
        )
    except PapermillExecutionError as failure:
        error = _last_line(failure.evalue if failure.ename == "CellExecutionError" else _spoken(failure))
    except (RuntimeError, TimeoutError) as failure:  # the kernel died or did not answer
        error = _last_line(f"{type(failure).__name__}: {failure}")
    notebook = nbformat.read(job.output if job.output.exists() else job.notebook, as_version=4)
    notebook.metadata["nbkv"] = {
        "notebook": job.notebook.name,
        "parameters": list(job.parameters.items()),  # pairs: notebook files sort the keys of a dict
        "started": started,
        "duration_s": round(time.perf_counter() - clock, 3),
        "error": error or _quiet_failure(notebook),
        "machine": machine(),
    }
    nbformat.write(notebook, job.output)
    return str(notebook.metadata["nbkv"]["error"])


def _quiet_failure(notebook: NotebookNode) -> str:
    """Return the error of a cell that failed without an error output: a UsageError is only a line on its stderr."""
    for cell in notebook.cells:
        if cell.metadata.get("papermill", {}).get("exception"):
            said = "".join(output.get("text", "") for output in cell.get("outputs", []))
            return _last_line(said) or "the cell failed without a message"
    return ""


def _spoken(failure: PapermillExecutionError) -> str:
    return f"{failure.ename}: {failure.evalue}" if failure.evalue else str(failure.ename)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
