"""What loading leaves in a saved notebook: no widget that nobody has, no bar that stands still."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest

import nbkv

BUNDLED = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny"
AT_ONCE = "%load_ext nbkv\nfrom nbkv.magics import progress\nprogress.DELAY = {delay}\n"
HIDDEN = "from transformers.utils import logging; logging.disable_progress_bar()\n"
CELLS = {
    "magic": "%load_ext nbkv\n%kvload {folder}",
    "python": "import nbkv\nsession = nbkv.load('{folder}')",
    "several": "import nbkv\nfor _ in range(2):\n    nbkv.load('{folder}').close()",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The outputs of each cell, as papermill leaves them; bars are drawn at once, late, or not at all."""
    folder = tmp_path_factory.mktemp("loading")
    shutil.copytree(BUNDLED, folder / "reader")
    cells = [AT_ONCE.format(delay=0), *(cell.format(folder=folder / "reader") for cell in CELLS.values())]
    cells += [AT_ONCE.format(delay=60) + cells[2], AT_ONCE.format(delay=0) + HIDDEN + cells[2]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "in.ipynb")
    papermill.execute_notebook(
        str(folder / "in.ipynb"), str(folder / "out.ipynb"), kernel_name="python3", progress_bar=False
    )
    done = nbformat.read(folder / "out.ipynb", as_version=4)
    return dict(zip([*CELLS, "late", "hidden"], [cell.outputs for cell in done.cells[-5:]], strict=True))


def test_no_output_is_a_widget_or_a_bar_of_transformers(saved):
    text = str(saved)

    assert "widget-view" not in text
    assert "Loading weights" not in text
    assert "%|" not in text


@pytest.mark.parametrize(("cell", "times"), [("magic", 1), ("python", 1), ("several", 2), ("late", 0), ("hidden", 0)])
def test_what_was_a_bar_is_a_sentence_in_the_end(saved, cell, times):
    lines = [output.data["text/plain"] for output in saved[cell] if output.output_type == "display_data"]

    assert len(lines) == times
    for line in lines:
        assert re.fullmatch(r"load .*reader: done in \S+ m?s", line)
