"""What a run's results depend on, as one hash: the notebook, its parameters, this package, and what computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.models.identity.software import versions
from nbkv.sweep.values import literal

if TYPE_CHECKING:
    from nbformat import NotebookNode


def content(notebook: NotebookNode, parameters: Mapping[str, Any]) -> str:
    """Return the hash of the cells of a ``notebook`` as it is before it runs, and of all that decides what it finds.

    Files that it reads and packages that it imports besides are not in it.
    """
    cells = [[cell.cell_type, cell.source, sorted(cell.metadata.get("tags", []))] for cell in notebook.cells]
    told = literal([cells, sorted(parameters.items()), software()])
    return hashlib.sha256(told.encode()).hexdigest()


@cache
def software() -> str:
    """Return the hash of every file of this package and its kernels, and of the versions of what they compute with."""
    made = hashlib.sha256(repr(sorted(versions().items())).encode())
    kernels = find_spec("nbkv_kernels")
    assert kernels is not None  # noqa: S101  (installed with this package)
    for root in (Path(__file__).parents[1], Path(str(kernels.origin)).parent):
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                made.update(str(path.relative_to(root)).encode() + b"\0")
                made.update(hashlib.sha256(path.read_bytes()).digest())
    return made.hexdigest()
