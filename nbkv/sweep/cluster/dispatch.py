"""Gives the jobs of a sweep to the workers of a cluster, and keeps what comes back as it comes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nbkv.process_work import ProcessWork
from nbkv.sweep.cluster.parcel import TOPIC, Parcel, heard
from nbkv.sweep.execute import RunLimits
from nbkv.sweep.plan import Job
from nbkv.sweep.runs import FAILED, OK, Run

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)


def dispatch(jobs: Sequence[Job], *, client: Client, work: ProcessWork, limits: RunLimits) -> Iterator[Run]:
    """Yield the run of each job as it ends; a job whose worker dies is done again by another.

    Each executed notebook is written where the job wants it, whole or not at all. A stop of ``work`` ends what runs at
    its next cell, and what has not begun never begins: such jobs yield nothing.
    """
    from distributed import Event, as_completed  # noqa: PLC0415  (only for several processes)

    stop = Event(f"nbkv-stop-{uuid.uuid4().hex}", client=client)
    client.subscribe_topic(TOPIC, partial(heard, work, stop.name))
    work.on_stop = stop.set
    parcels = [Parcel(job, job.notebook.read_text(encoding="utf-8"), limits, stop.name) for job in jobs]
    # not pure: the same job of another sweep is another task
    futures = {client.submit(parcel.carry_out, pure=False): parcel.job for parcel in parcels}
    try:
        for at, future in enumerate(as_completed(futures), start=1):
            job = futures[future]
            if (failure := future.exception()) is not None:
                run = _lost(job, failure)
            elif (found := future.result()) is None:
                continue
            else:
                run, text = found
                _write(job.output, text)
            future.release()
            log.info("[%d/%d] %s%s", at, len(jobs), job.output.stem, "" if run.status == OK else f": {run.error}")
            yield run
    finally:
        work.on_stop = None
        stop.set()
        client.cancel(list(futures))
        client.unsubscribe_topic(TOPIC)


def _lost(job: Job, failure: BaseException) -> Run:
    told = " ".join(f"{type(failure).__name__}: {failure}".split())
    log.warning("%s failed: %s", job.notebook.name, told)
    return Run(path=job.output, notebook=job.notebook.name, parameters=job.parameters, status=FAILED, error=told)


def _write(path: Path, text: str) -> None:
    if text:
        half = path.with_name(f".{path.name}.part")
        half.write_text(text, encoding="utf-8")
        half.replace(path)
