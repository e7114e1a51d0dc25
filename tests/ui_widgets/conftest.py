"""A JupyterLab of its own on loopback, and Debian's Chromium to look at it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "screenshots"
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def isolated(folder):
    """Return an environment in which Jupyter finds no settings but those of ``folder``."""
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    notes = folder / "settings" / "@jupyterlab" / "apputils-extension"
    notes.mkdir(parents=True)
    (notes / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))
    return os.environ | {name: str(folder / place) for name, place in places.items()} | {"OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(command, ready, env, log):
    """Start a server and wait until ``ready`` answers; return its process."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    for _ in range(300):
        try:
            urllib.request.urlopen(ready, timeout=2).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return process
    process.terminate()
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium)
        yield found
        found.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Return the address, token and notebook folder of a running JupyterLab."""
    folder = tmp_path_factory.mktemp("lab")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    token, port = secrets.token_hex(8), free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    process = serve(command, f"{address}/api/status?token={token}", isolated(folder), folder / "log")
    yield address, token, notebooks
    process.terminate()
    process.wait(20)


class Notebook:
    """An open notebook: run cells, look at what came out."""

    def __init__(self, page):
        self.page = page
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, lab, name, cells, *, theme="JupyterLab Light", wait=True):
        address, token, folder = lab
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, folder / name)
        self.goto(lab, name, theme=theme, wait=wait)

    def goto(self, lab, name, *, theme="JupyterLab Light", wait=True):
        address, token, _ = lab
        self.page.goto(f"{address}/lab/tree/{name}?reset&token={token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        if wait:
            self.page.wait_for_function(f"({KERNEL})?.status === 'idle'", timeout=60_000)
        self.do("apputils:change-theme", theme=theme)
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str('Light' in theme).lower()}'")
        self.do("application:toggle-left-area")

    def do(self, command, **options):
        self.page.evaluate(
            "([command, options]) => { void jupyterapp.commands.execute(command, options) }", [command, options]
        )

    def run_cell(self, index):
        choose = "at => { const notebook = jupyterapp.shell.currentWidget.content; notebook.activeCellIndex = at }"
        self.page.evaluate(choose, index)
        self.do("notebook:run-cell")

    def run_all(self, *, timeout=60_000):
        self.do("notebook:run-all-cells")
        self.page.wait_for_function(
            "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(p => /\\[\\d+\\]/.test(p.textContent))",
            timeout=timeout,
        )

    def shot(self, name, selector=None):
        SHOTS.mkdir(exist_ok=True)
        place = self.page.locator(selector).first if selector else self.page
        place.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture
def notebook(browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    yield Notebook(page)
    page.close()
