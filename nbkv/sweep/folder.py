"""A folder of executed notebooks: what ran with which parameters, what it recorded, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import LoadError
from nbkv.sweep.page.html_report import page
from nbkv.sweep.plan import own_seeds
from nbkv.sweep.records import recorded, units
from nbkv.sweep.runs import FAILED, OK, Run, Sweep
from nbkv.sweep.values import unpacked

if TYPE_CHECKING:
    from nbformat import NotebookNode

log = logging.getLogger(__name__)


def report(folder: str | Path) -> Sweep:
    """Read every notebook that was run into ``folder`` and write its ``results.csv`` and ``report.html`` anew.

    Raises ``LoadError`` if there is no such folder or nothing was run into it.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        message = f"no folder {folder}: give the one that `nbkv run -o` wrote to"
        raise LoadError(message)
    found = [(notebook, read(path, notebook)) for path, notebook in executed(folder)]
    if not found:
        message = f"nothing was run into {folder}: give the folder that `nbkv run -o` wrote to"
        raise LoadError(message)
    sweep = Sweep(folder, tuple(run for _, run in found))
    sweep.report.write_text(page(sweep, [notebook for notebook, _ in found]), encoding="utf-8")
    return sweep


def executed(folder: Path) -> list[tuple[Path, NotebookNode]]:
    """Return the notebooks in ``folder`` that ``run`` executed, in the order they were planned.

    One that cannot be read is left out with a warning.
    """
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    found = []
    for path in sorted(folder.glob("*.ipynb")):
        try:
            notebook = nbformat.read(path, as_version=4)
        except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
            log.warning("%s cannot be read and is left out: %s", path.name, " ".join(str(error).split())[:200])
            continue
        if "nbkv" in notebook.metadata:
            found.append((path, notebook))
    return sorted(found, key=lambda pair: _sequence(pair[1].metadata["nbkv"]))


def _sequence(note: Mapping[str, Any]) -> str:
    return str(note.get("sequence") or note["started"])


def read(path: Path, notebook: NotebookNode) -> Run:
    """Return what the executed ``notebook`` at ``path`` says about its run."""
    note = notebook.metadata["nbkv"]
    return Run(
        path=path,
        notebook=note["notebook"],
        parameters={name: unpacked(value) for name, value in note["parameters"]},
        records=recorded(notebook),
        units=units(notebook),
        seeds=own_seeds(notebook),
        machine=dict(note.get("machine", {})),
        duration_s=note["duration_s"],
        status=FAILED if note["error"] else OK,
        error=note["error"],
    )
