"""Runs notebooks, each with each setting of its parameters: here one after another, or on the workers of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nbkv.errors import BadOption, LoadError
from nbkv.roster import ProcessWork, process_work
from nbkv.scalars import is_number, is_whole
from nbkv.show.units import plural
from nbkv.stopping import Stopped
from nbkv.sweep.content import content
from nbkv.sweep.execute import STOPPED, RunLimits, execute
from nbkv.sweep.folder import executed, read, report
from nbkv.sweep.plan import Job, plan, settings, source_notebook
from nbkv.sweep.runs import OK, Run, Sweep

log = logging.getLogger(__name__)


class Hands(Protocol):
    """Who runs jobs: yields the run of each as it ends."""

    def __call__(self, jobs: Sequence[Job], *, work: ProcessWork, limits: RunLimits) -> Iterator[Run]:
        """Run ``jobs`` as parts of ``work``."""


def run(
    notebooks: str | Path | Iterable[str | Path],
    parameters: Mapping[str, Any] | None = None,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    out_dir: str | Path = "runs",
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    rerun: bool = False,
) -> Sweep:
    """Execute ``notebooks`` with papermill and gather the folder into ``results.csv`` and ``report.html``.

    Each notebook runs in its own folder and in a kernel of its own, of this very interpreter. A notebook that fails is
    kept as far as it came and the others still run; see ``Sweep.failed``. A folder holds all that was ever run into it:
    what has run to its end there, with the same cells, parameters, nbkv and versions, is not run again unless
    ``rerun``; otherwise a run takes the place of its earlier one.

    ``parameters`` are values for the cells tagged ``parameters``, a notebook gets those it declares; ``grid`` is
    ``{name: [values]}`` for every combination, ``{"zip": {name: [values]}}`` for the first values together, then the
    second, …, ``{"product": {…}, "zip": {…}}`` for every combination of both, or a list of ``{name: value}`` for just
    these. Executed notebooks, table and page go to ``out_dir``, made if missing. Stopped (by the panel, say), it
    returns what has run.

    They run one after another; or as many at once as there are ``workers``, processes started here; or on the workers
    of the dask ``scheduler`` at an address such as ``"tcp://host:8786"``. A run may take ``timeout`` seconds, and one
    that fails is tried again up to ``retries`` times. Raises ``LoadError`` if a notebook is missing or is none, or no
    scheduler answers, ``BadOption`` if no notebook declares one of the parameters, a value is none that a notebook can
    be given, or an option is none of these.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm  # noqa: PLC0415  (`record` must not pay for it)

    limits, begun = _limits(timeout, retries), datetime.now(UTC).isoformat()
    hands = _hands(workers, scheduler)
    jobs = plan(notebooks, dict(parameters or {}), settings(grid), Path(out_dir).expanduser().resolve())
    jobs = [replace(job, sequence=f"{begun} {at:06d}") for at, job in enumerate(jobs)]
    runs = {} if rerun else _finished(jobs)
    todo = [job for job in jobs if job.output not in runs]
    before, told = frozenset(path.name for path in runs), f"{plural(len(runs), 'run')} of {len(jobs)}"
    if runs:
        log.info("%s ran to the end before, with the same nbkv and versions: not run again", plural(len(runs), "run"))
    stopped = ""
    with process_work("run", sum(job.cells for job in todo) + bool(before)) as work:
        try:
            if before:
                work.step(f"{told} ended before, not run again")
            with logging_redirect_tqdm([logging.getLogger("nbkv")]), hands(len(todo)) as started:
                for done in started(todo, work=work, limits=limits):
                    runs[done.path] = done
                work.stopper.check()
        except Stopped:
            ended = sum(one.error != STOPPED for one in runs.values())
            stopped = f"stopped after {ended} of {plural(len(jobs), 'run')}"
        except KeyboardInterrupt:
            with suppress(LoadError):  # a table of what has run; not even one may have
                report(jobs[0].output.parent)
            raise
    return _gathered(jobs, runs, stopped, before)


def _gathered(jobs: Sequence[Job], runs: dict[Path, Run], stopped: str, before: frozenset[str]) -> Sweep:
    folder = jobs[0].output.parent
    written = {one.path: one for one in report(folder).runs} if any(path.exists() for path in runs) else {}
    known = runs | {path: one for path, one in written.items() if path in runs}
    return Sweep(folder, tuple(known[job.output] for job in jobs if job.output in known), stopped, before)


def _finished(jobs: Sequence[Job]) -> dict[Path, Run]:
    """Return the runs that need not be done again: done to the end, from the very same content."""
    outputs = {job.output for job in jobs if job.output.is_file()}
    if not outputs:
        return {}
    kept = {path: notebook for path, notebook in executed(jobs[0].output.parent) if path in outputs}
    found = {}
    for job in jobs:
        note = kept[job.output].metadata["nbkv"] if job.output in kept else {}
        same = note.get("content") == content(source_notebook(job.notebook), job.parameters) if note else False
        if same and (run_before := read(job.output, kept[job.output])).status == OK:
            found[job.output] = run_before
    return found


def _in_turn(jobs: Sequence[Job], *, work: ProcessWork, limits: RunLimits) -> Iterator[Run]:
    """Yield the run of each job, one after another, in this process; raises ``Stopped`` where ``work`` was stopped."""
    for at, job in enumerate(jobs, start=1):
        log.info("[%d/%d] %s", at, len(jobs), job.output.stem)
        yield execute(job, work, limits)
        work.stopper.check()


def _hands(workers: object, scheduler: object) -> Callable[[int], AbstractContextManager[Hands]]:
    """Return what gives, for so many jobs, those who run them."""
    if workers is not None and scheduler is not None:
        message = "give workers (processes started here) or a scheduler (a cluster that is there), not both"
        raise BadOption(message)
    if workers is not None and not is_whole(workers, 1):
        message = f"workers={workers!r} is no number of processes: an integer from 1"
        raise BadOption(message)
    if scheduler is not None and not isinstance(scheduler, str):
        message = f"scheduler={scheduler!r} is no address: a text such as tcp://host:8786"
        raise BadOption(message)
    if workers is None and scheduler is None:
        return _alone
    return partial(_several, None if workers is None else int(workers), scheduler)


@contextmanager
def _alone(jobs: int) -> Iterator[Hands]:  # noqa: ARG001  (as many as there are)
    yield _in_turn


@contextmanager
def _several(workers: int | None, scheduler: str | None, jobs: int) -> Iterator[Hands]:
    if jobs == 0:
        yield _in_turn
        return
    from nbkv.sweep.cluster.dispatch import dispatch  # noqa: PLC0415  (only for several processes)
    from nbkv.sweep.cluster.workers import cluster_workers, local_workers  # noqa: PLC0415

    made = cluster_workers(scheduler) if scheduler is not None else local_workers(min(workers or 1, jobs))
    with made as client:
        yield partial(dispatch, client=client)


def _limits(timeout: float | None, retries: int) -> RunLimits:
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        message = f"timeout={timeout!r} is no time: seconds above 0, or None"
        raise BadOption(message)
    if not is_whole(retries):
        message = f"retries={retries!r} is no number of times: an integer from 0"
        raise BadOption(message)
    return RunLimits(None if timeout is None else float(timeout), int(retries))
