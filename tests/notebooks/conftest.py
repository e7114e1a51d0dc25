from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def write(tmp_path: Path):
    """Write a notebook of code cells, the first of which declares the parameters; return its path."""

    def make(name: str, *sources: str) -> Path:
        cells = [new_code_cell(source) for source in sources]
        cells[0].metadata["tags"] = ["parameters"]
        path = tmp_path / "source" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return make
