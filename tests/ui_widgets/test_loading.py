"""What loading a model leaves on the page, while the kernel lives and when the saved notebook is opened elsewhere."""

import shutil
from pathlib import Path

import nbformat

import nbkv

BUNDLED = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny"
CELLS = [
    "%load_ext nbkv\nfrom nbkv.magics import progress\nprogress.DELAY = 0",
    "%kvload reader",
    "import nbkv\nother = nbkv.load('reader')",
]
NAME, LINE = "loading.ipynb", "load reader: "


def lines(page):
    return [text for text in page.locator(".nbkv-progress").all_inner_texts() if LINE in text]


def test_a_saved_notebook_shows_what_was_read_and_no_lost_widget(lab, empty, page):
    shutil.copytree(BUNDLED, lab[2] / "reader")
    empty.open(lab, NAME, CELLS)
    for index in range(len(CELLS)):
        empty.run(index)
    page.wait_for_function("document.querySelectorAll('.nbkv-progress').length === 2")
    assert all("done in" in line for line in lines(page))
    for shade in ("light", "dark"):
        empty.theme(shade)
        empty.shot(f"loading-{shade}", ".jp-Notebook", 700)
    empty.do("docmanager:save")
    page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
    saved = nbformat.read(lab[2] / NAME, as_version=4)
    saved.metadata.pop("widgets", None)
    saved.metadata["kernelspec"]["name"] = "no-such-kernel"
    nbformat.write(saved, lab[2] / "foreign.ipynb")
    empty.goto(lab, "foreign.ipynb")
    page.locator(".nbkv-progress").first.wait_for()

    assert len(lines(page)) == 2
    assert "Error displaying widget" not in page.locator(".jp-Notebook").inner_text()
    assert "Loading weights" not in page.locator(".jp-Notebook").inner_text()
    assert empty.errors == []
