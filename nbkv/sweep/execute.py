"""Executes one notebook with its parameters, and keeps the executed copy, whatever becomes of it."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nbkv.process_work import ProcessWork
from nbkv.stopping import Stopped
from nbkv.sweep.content import content
from nbkv.sweep.machine import machine
from nbkv.sweep.plan import Job, inject
from nbkv.sweep.runs import FAILED, OK, Run
from nbkv.sweep.values import packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

log = logging.getLogger(__name__)
STOPPED = "stopped"  # the error of a run that somebody has stopped


@dataclass(frozen=True)
class RunLimits:
    """How long a run may take, in seconds (None: as long as it does), and how often it is tried again when it fails."""

    timeout: float | None = None
    retries: int = 0


def execute(job: Job, work: ProcessWork, limits: RunLimits, cwd: Path | None = None) -> Run:
    """Run one notebook as a part of ``work``; what goes wrong is the ``error`` of its Run, what there is of it is kept.

    One that fails is tried again within ``limits``, from its first cell. The kernel starts in ``cwd``, or else in the
    notebook's own folder.
    """
    for attempt in range(1, 2 + limits.retries):
        run = _attempt(job, work, limits.timeout, cwd or job.notebook.parent, attempt)
        if run.status == OK or run.error == STOPPED:
            break
        if attempt <= limits.retries:
            log.warning("%s failed (%s) and is tried again", job.output.stem, run.error)
    if run.error:
        kept = f" (kept in {job.output})" if job.output.is_file() else ""
        log.warning("%s failed: %s%s", job.notebook.name, run.error, kept)
    return run


def _attempt(job: Job, work: ProcessWork, timeout: float | None, cwd: Path, attempt: int) -> Run:
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    started, clock, error = datetime.now(UTC).isoformat(), time.perf_counter(), ""
    notebook, source = nbformat.v4.new_notebook(), ""
    try:
        notebook = nbformat.read(job.notebook, as_version=4)
        source = content(notebook, job.parameters)
        inject(job.parameters, notebook)
        error = _executed(job, notebook, work, timeout, cwd)
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
            "sequence": job.sequence or started,
            "content": source,
            "attempts": attempt,
            "duration_s": duration_s,
            "error": error,
            "machine": machine(),
        }
        nbformat.write(notebook, job.output)
    except Exception as failure:  # noqa: BLE001  (as above: the disk may be full)
        error = error or _told(failure)
    return Run(
        path=job.output,
        notebook=job.notebook.name,
        parameters=job.parameters,
        duration_s=duration_s,
        status=FAILED if error else OK,
        error=error,
    )


def _executed(job: Job, notebook: NotebookNode, work: ProcessWork, timeout: float | None, cwd: Path) -> str:
    """Execute ``notebook`` into the job's output; return its last error line, or "" when it went well."""
    import papermill  # noqa: PLC0415  (slow to import)
    from nbclient.exceptions import CellTimeoutError  # noqa: PLC0415
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
            cwd=cwd,
            timeout_func=_clock(timeout),
            progress_bar=False,
            store_widget_state=False,
        )
    except CellTimeoutError:
        return f"it took longer than {timeout:g} s"
    except PapermillExecutionError as failure:
        work.stopper.check()  # then it is what the kernel was interrupted for
        return _last_line(failure.evalue if failure.ename == "CellExecutionError" else _spoken(failure))
    return ""


def _clock(timeout: float | None) -> Callable[[object], int] | None:
    """Return what tells nbclient how many seconds a cell has left when a run may take ``timeout``; at least one."""
    if timeout is None:
        return None
    end = time.monotonic() + timeout
    return lambda _: max(1, math.ceil(end - time.monotonic()))


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
