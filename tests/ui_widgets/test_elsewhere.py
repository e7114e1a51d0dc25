"""Where there is no JupyterLab: executed and exported pages, Voila, the classic notebook."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import expect

SETUP = "%load_ext nbkv\n%kvload tiny"
CHUNK = "%%kvchunk rules\nNina pays in krona . The lamp cost her 48 ."
ASK = "%%kvgen -n 4\n{{ rules }} Who pays ?"
COMPARE = "%%kvcompare prefix,cacheblend --repeat 1 -n 4\n{{ rules }} Who pays ?"
CELLS = [SETUP, CHUNK, "%kvdash", ASK, COMPARE, "%kvplot", "%kvplay"]
NAME = "views.ipynb"
SHOTS = Path(__file__).resolve().parents[2] / "screenshots"  # playwright makes the folder
TRIES, AGAIN = 60, 10_000  # how often all cells are run, and after how many milliseconds again if none has begun
VIEW = "application/vnd.jupyter.widget-view+json"


def write(folder):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / NAME)
    return folder / NAME


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the notebook as papermill leaves it when it keeps the widgets' state too, and how large it is."""
    folder = tmp_path_factory.mktemp("executed")
    papermill.execute_notebook(str(write(folder)), str(folder / "out.ipynb"), kernel_name="python3", progress_bar=False)
    return nbformat.read(folder / "out.ipynb", as_version=4), (folder / "out.ipynb").stat().st_size


@pytest.fixture
def offline(page):
    page.context.set_offline(True)
    yield page
    page.context.set_offline(False)


def bundles(notebook, cell):
    return [dict(output.data) for output in notebook.cells[cell].outputs if "data" in output]


def test_papermill_keeps_figures_that_came_after_the_dashboard(executed):
    live, record = bundles(executed[0], 2)
    assert VIEW in live
    assert "text/html" not in live  # else pages without widgets would show two pictures
    assert "1 request" in record["text/plain"]
    assert "1 request<" in record["text/html"]
    (map_,) = bundles(executed[0], 3)
    assert "nbkv-map" in map_["text/html"]
    assert executed[1] < 300_000


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("shade", ["light", "dark"])
def test_an_exported_page_shows_everything_without_network(executed, offline, tmp_path, with_state, shade):
    notebook = nbformat.from_dict(executed[0])
    if not with_state:
        notebook.metadata.pop("widgets")
    html, _ = HTMLExporter(theme=shade).from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    offline.goto((tmp_path / "page.html").as_uri(), wait_until="domcontentloaded")
    for kind in ("dashboard", "result", "comparison", "plot", "cards"):
        assert offline.locator(f".nbkv-{kind}").first.is_visible(), kind
    assert offline.locator(".nbkv-map").first.inner_text().replace("\n", " ").count("Nina pays in krona") == 1
    offline.screenshot(path=SHOTS / f"exported-{shade}-{'state' if with_state else 'plain'}.png", full_page=True)


def try_out(page):
    """Ask in the playground; the dashboard of the same session shows it."""
    errors = []  # plotly's own output wants to add a picture to its notebook, which Voila does not have
    page.on("pageerror", lambda error: "jupyterlab-plotly" in error.stack or errors.append(error.stack))
    page.wait_for_selector(".nbkv-play button.main")
    before = page.locator(".nbkv-dash .tile").first.inner_text()
    page.locator(".nbkv-play textarea").fill("Who pays ?")
    page.locator(".nbkv-play input[type=number]").fill("6")
    page.locator(".nbkv-play button.main").click()
    page.wait_for_selector(".nbkv-play .card .nbkv-map")
    page.wait_for_function("before => document.querySelector('.nbkv-dash .tile').innerText !== before", arg=before)
    assert not page.locator("[class^=nbkv-record] >> visible=true").count()
    assert errors == []


def run_all(page):
    """Have all cells run; asked again until the first does: what is asked before the kernel is there gets lost."""
    first = page.locator(".jp-CodeCell .jp-InputPrompt").first
    for _ in range(TRIES):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            expect(first).not_to_have_text(re.compile(r"^\[ ?\]:"), timeout=AGAIN)
        except AssertionError:
            continue
        return
    pytest.fail("the kernel never began")


def test_voila_serves_the_views_live(voila, page):
    address, token, folder = voila
    write(folder)
    page.goto(f"{address}/voila/render/{NAME}?token={token}")
    try_out(page)
    page.screenshot(path=SHOTS / "voila.png", full_page=True)


def test_the_classic_notebook_shows_them_too(classic, page):
    address, token, folder = classic
    write(folder)
    page.goto(f"{address}/notebooks/{NAME}?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    run_all(page)
    try_out(page)
    page.screenshot(path=SHOTS / "classic.png", full_page=True)
