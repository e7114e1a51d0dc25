"""Executes the cells of one notebook through papermill, telling each before it runs."""

from __future__ import annotations

from typing import Any

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

NAME = "nbkv"


class CellByCell(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    """papermill's own way, with ``tell(index)`` called before each cell, counted from 0."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any) -> None:  # noqa: ANN401  (papermill's)
        """Run the notebook that ``nb_man`` keeps."""
        tell, start = options.pop("tell"), nb_man.cell_start

        def started(cell: object, cell_index: int | None = None, **more: object) -> None:
            tell(cell_index or 0)
            start(cell, cell_index, **more)

        nb_man.cell_start = started
        super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register(NAME, CellByCell)
