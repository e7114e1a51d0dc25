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
PATIENCE = 90_000  # milliseconds
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
            urllib.request.urlopen(ready, timeout=2).close()  # noqa: S310  (our own server)
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

    def open(self, lab, name, cells):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, lab[2] / name)
        self.goto(lab, name)
        self.page.wait_for_function(f"({KERNEL})?.status === 'idle'")

    def goto(self, lab, name):
        address, token, _ = lab
        self.page.goto(f"{address}/lab/tree/{name}?reset&token={token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
        self.do("application:toggle-left-area")

    def do(self, command, **options):
        run = "([command, options]) => { void jupyterapp.commands.execute(command, options) }"
        self.page.evaluate(run, [command, options])

    def theme(self, shade):
        self.do("apputils:change-theme", theme=f"JupyterLab {shade.title()}")
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(shade == 'light').lower()}'")

    def start(self, index):
        choose = "at => { const notebook = jupyterapp.shell.currentWidget.content; notebook.activeCellIndex = at }"
        self.page.evaluate(choose, index)
        self.do("notebook:run-cell")

    def run(self, index):
        """Run a cell and wait until it has ended."""
        prompt = "at => document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').item(at).textContent"
        before = self.page.evaluate(prompt, index)
        self.start(index)
        ended = f"([at, before]) => {{ const now = ({prompt})(at); return now !== before && /\\d/.test(now) }}"
        self.page.wait_for_function(ended, arg=[index, before])

    def shot(self, name, selector, width=1300):
        SHOTS.mkdir(exist_ok=True)
        self.page.set_viewport_size({"width": width, "height": 2000})
        self.page.wait_for_timeout(300)
        self.page.locator(selector).first.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(scope="module")
def page(browser):
    """Return a page in which waiting takes patience: others may use the machine as well."""
    made = browser.new_page(viewport={"width": 1300, "height": 1000})
    made.set_default_timeout(PATIENCE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def empty(page):
    return Notebook(page)
