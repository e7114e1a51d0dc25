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
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "screenshots"
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
SERVER = (
    "--allow-root",
    "--ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token={token}",
    "--ServerApp.root_dir={folder}",
)
VOILA = ("--Voila.ip=127.0.0.1", "--token={token}", "--theme=dark", "{folder}")
PATIENCE = 300_000  # milliseconds until a condition must hold: an end for what is broken, no measure of speed
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


def serve(command, port, env, log):
    """Start a server and wait until it answers at ``port``; return its process."""
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.2)
    process.terminate()
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("no chromium on this machine: apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium)
        yield found
        found.close()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a function that starts a server on loopback for a folder of notebooks: its address, token and folder."""
    running = []

    def started(module, *options):
        folder = tmp_path_factory.mktemp(module)
        (folder / "notebooks").mkdir()
        token, port = secrets.token_hex(8), free_port()
        command = [sys.executable, "-m", module, "--no-browser", f"--port={port}"]
        command += [option.format(token=token, folder=folder / "notebooks") for option in options]
        running.append(serve(command, port, isolated(folder), folder / "log"))
        return f"http://127.0.0.1:{port}", token, folder / "notebooks"

    yield started
    for process in running:
        process.terminate()
        process.wait(120)


@pytest.fixture(scope="module")
def lab(start):
    return start("jupyterlab", *SERVER, "--LabApp.expose_app_in_browser=True")


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
def voila(start):
    return start("voila", *VOILA)


@pytest.fixture(scope="module")
def classic(start):
    return start("notebook", *SERVER)


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
