"""Executes the cells of one notebook through papermill, telling each before it runs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from nbkv.process_work import ProcessWork
from nbkv.sweep.kernel import ThisInterpreter

NAME = "nbkv"


class CellByCell(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    """papermill's own way, each cell a step of ``work``; a stop interrupts the cell that runs, as Ctrl-C would."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any) -> None:  # noqa: ANN401  (papermill's)
        """Run the notebook that ``nb_man`` keeps, which is ``called`` so and has so many ``cells``."""
        called, cells, start = options.pop("called"), options.pop("cells"), nb_man.cell_start
        work: ProcessWork = options.pop("work")
        kernels: list[ThisInterpreter] = []

        def started(cell: object, cell_index: int | None = None, **more: object) -> None:
            work.step(f"{called}, cell {(cell_index or 0) + 1} of {cells}")
            start(cell, cell_index, **more)

        class Interruptible(ThisInterpreter):
            def __init__(self, **given: Any) -> None:  # noqa: ANN401  (nbclient's)
                super().__init__(**given)
                kernels.append(self)

        def interrupt() -> None:
            for kernel in kernels:
                # nbclient's own loop waits for the cell
                threading.Thread(target=lambda kernel=kernel: asyncio.run(kernel.interrupt_kernel())).start()

        nb_man.cell_start, work.on_stop = started, interrupt
        try:
            super().execute_managed_notebook(nb_man, kernel_name, kernel_manager_class=Interruptible, **options)
        finally:
            work.on_stop = None


papermill_engines.register(NAME, CellByCell)
