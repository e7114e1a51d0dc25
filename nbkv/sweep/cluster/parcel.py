"""A run as it travels: the notebook goes to the worker as text, and comes back executed, as text."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nbkv.process_work import ProcessWork
from nbkv.stopping import Stopped
from nbkv.sweep.execute import RunLimits, execute
from nbkv.sweep.plan import Job
from nbkv.sweep.runs import Run

if TYPE_CHECKING:
    from distributed import Event

TOPIC = "nbkv-cells"


@dataclass(frozen=True)
class Parcel:
    """A job, the text of its notebook, and the names by which its sweep is told and stopped."""

    job: Job
    source: str
    limits: RunLimits
    stop: str  # name of the event that ends the sweep

    def carry_out(self) -> tuple[Run, str] | None:
        """Run the job on this worker, in a folder of its own; None where the sweep has been stopped before it began.

        Its kernel starts in the notebook's own folder where this machine has it.
        """
        from distributed import Event  # noqa: PLC0415  (only on workers)

        stop = Event(self.stop)
        if stop.is_set():
            return None
        with tempfile.TemporaryDirectory(prefix="nbkv-run-") as folder:
            here = replace(self.job, notebook=Path(folder) / "source" / self.job.notebook.name)
            here = replace(here, output=Path(folder) / self.job.output.name)
            here.notebook.parent.mkdir()
            here.notebook.write_text(self.source, encoding="utf-8")
            own = self.job.notebook.parent
            run = execute(here, ReportedWork(self.job, stop), self.limits, cwd=own if own.is_dir() else Path(folder))
            text = here.output.read_text(encoding="utf-8") if here.output.is_file() else ""
        return replace(run, path=self.job.output), text


class ReportedWork(ProcessWork):
    """The work of one run on a worker: its steps are told to the client, and a stop of the sweep ends it."""

    def __init__(self, job: Job, stop: Event) -> None:
        """Report as ``job``; ``stop`` is the sweep's event."""
        super().__init__("run", job.cells, told=False)
        self._stop = stop

    def step(self, doing: str, *, steps: int = 1) -> None:
        """Begin what ``doing`` names; raises ``Stopped`` after a stop of the sweep."""
        from distributed import get_worker  # noqa: PLC0415  (only on workers)

        get_worker().log_event(TOPIC, {"sweep": self._stop.name, "doing": doing})
        if self._stop.is_set():
            self.stop()
        super().step(doing, steps=steps)


def heard(work: ProcessWork, stop: str, event: tuple[float, dict[str, str]]) -> None:
    """Count a cell that a worker has begun among the steps of ``work``, if it is of the sweep that ``stop`` ends."""
    told = event[1]
    if told.get("sweep") == stop:
        with suppress(Stopped):  # the sweep itself looks for that
            work.step(told["doing"])
