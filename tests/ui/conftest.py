from __future__ import annotations

import browser
import pytest
from playwright.sync_api import expect
from waiting import HOLD

expect.set_options(timeout=browser.PATIENCE)
SHOTS = browser.ROOT / "screenshots"


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """The interpreter of a fresh environment in which the built wheel is installed."""
    return browser.install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, python):
    """One JupyterLab for all tests, with nbkv from the wheel."""
    with browser.Server(tmp_path_factory.mktemp("lab"), python).running() as started:
        yield started


@pytest.fixture(scope="session")
def chromium():
    with browser.browser() as started:
        yield started


@pytest.fixture
def lab(server, chromium, request):
    """A fresh page; afterwards its kernels are gone, and nothing has gone wrong in the page."""
    SHOTS.mkdir(exist_ok=True)
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    opened = browser.Lab(server, page, SHOTS)
    yield opened
    opened.shot(f"end_{request.node.name}")
    page.close()
    server.end_kernels()
    assert opened.errors == []


@pytest.fixture
def notebook(server, request):
    """Write a notebook named after the test; its first cell loads the bundled reader and lets it answer on and on.

    That cell ends with ``more``.
    """

    def make(*cells: str, name: str = "", more: str = "") -> str:
        stem = name or request.node.name.removeprefix("test_")
        return server.write(f"{stem}.ipynb", LOAD + more, *cells)

    return make


LOAD = (
    """%load_ext nbkv
from nbkv.tasks import ledger
session = %kvload tiny
config = session.adapter.model.generation_config
config.suppress_tokens = [config.eos_token_id]
item = ledger(seed=0, n=1, chunks=8)[0]
notes = session.chunk("".join(item.chunks), name="the notes of a long day at the market, taken by all who were there")
question = item.question
"""
    + HOLD
)
