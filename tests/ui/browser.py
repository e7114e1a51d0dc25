"""A JupyterLab of its own with the built extension, and a browser that looks at it; also used to make the pictures."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
NO_NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def install(folder: Path) -> Path:
    """Build the wheel and install it alone into a fresh environment that borrows the rest from this one; return python.

    Nothing of the repository and no node is on the path there.
    """
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run(wheel, check=True)
    venv.create(folder / "fresh", symlinks=True)
    python = folder / "fresh/bin/python"
    given = [str(path) for path in folder.glob("nbkv-*.whl")]
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", *given], check=True, env=alone()
    )
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def alone(**more: str) -> dict[str, str]:
    """Return the environment without what leads to the repository."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


class Server:
    """JupyterLab of the environment of ``python`` on loopback with a token; all that it writes lies in ``folder``."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python, self.token = folder, python, secrets.token_hex(16)
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        quiet = folder / "settings" / NO_NEWS
        quiet.parent.mkdir(parents=True)
        quiet.write_text(json.dumps(QUIET))

    @contextmanager
    def running(self):
        options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0"]
        options += [
            f"--port={self.port}",
            f"--ServerApp.root_dir={self.notebooks}",
            "--LabApp.expose_app_in_browser=True",
        ]
        options += [f"--IdentityProvider.token={self.token}", "--ServerApp.open_browser=False"]
        options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        log = (self.folder / "server.log").open("w")
        command = [str(self.python), "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=self._environment(), cwd=self.folder, stdout=log, stderr=log)
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            process.wait(timeout=120)
            log.close()

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook whose cells are code, or text where they begin with ``# ``; return its name."""
        made = [new_markdown_cell(cell) if cell.startswith("# ") else new_code_cell(cell) for cell in cells]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=made, metadata=spec), self.notebooks / name)
        return name

    def api(self, path: str, method: str = "GET"):
        url = f"http://127.0.0.1:{self.port}/{path}?token={self.token}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def end_kernels(self) -> None:
        for session in self.api("api/sessions"):
            self.api(f"api/sessions/{session['id']}", "DELETE")

    def _environment(self) -> dict[str, str]:
        own = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
        found = {f"JUPYTER_{name}_DIR": str(self.folder / folder) for name, folder in own.items()}
        found |= {"JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"), "IPYTHONDIR": str(self.folder / "ipython")}
        found |= {"JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"), "OMP_NUM_THREADS": "1"}
        found |= {"JUPYTERLAB_DIR": f"{sys.prefix}/share/jupyter/lab", "NBKV_CACHE": str(self.folder / "remembered")}
        return alone(HF_HUB_OFFLINE="1", **found)

    def _wait(self, process: subprocess.Popen) -> None:
        for _ in range(300):
            assert process.poll() is None, (self.folder / "server.log").read_text()
            try:
                self.api("api/status")
            except OSError:
                time.sleep(0.1)
            else:
                return
        message = "JupyterLab did not answer within 30 seconds"
        raise TimeoutError(message)


class Lab:
    """One page on a server, with the notebook in front."""

    def __init__(self, server: Server, page, shots: Path) -> None:
        self.server, self.page, self.shots = server, page, shots
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def panel(self):
        return self.page.locator("#nbkv-panel")

    def open(self, name: str, *, kernel: bool = True, panel: bool = True, reset: bool = True) -> Lab:
        """Show a notebook; ``reset`` begins with an empty workspace."""
        query = f"{'reset&' if reset else ''}token={self.server.token}"
        self.page.goto(f"http://127.0.0.1:{self.server.port}/lab/tree/{name}?{query}")
        self.page.wait_for_function(
            "window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length > 0", timeout=60000
        )
        if kernel:
            self.idle()
        if panel:
            self.command("nbkv:show-panel")
            self.panel.wait_for(state="visible")
        return self

    def command(self, name: str, **arguments) -> None:
        """Start a command of the application; not wait for what it returns."""
        self.page.evaluate(f"(given) => {{ void jupyterapp.commands.execute('{name}', given) }}", arguments)

    def run(self, *cells: int, wait: bool = True) -> Lab:
        """Run cells by number, counted from 0."""
        for cell in cells:
            self.page.evaluate(f"jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}")
            self.page.evaluate(
                """() => {
                    window.ran = false;
                    void jupyterapp.commands.execute('notebook:run-cell').then(() => { window.ran = true });
                }"""
            )
            if wait:
                self.done()
        return self

    def done(self, timeout: int = 60000) -> None:
        """Wait for the last cell that was run to be over, and the kernel idle."""
        self.wait("window.ran", timeout)
        self.idle()

    def idle(self, timeout: int = 60000) -> None:
        self.page.wait_for_function(f"({KERNEL})?.status === 'idle'", timeout=timeout)

    def wait(self, script: str, timeout: int = 10000) -> None:
        self.page.wait_for_function(script, timeout=timeout)

    def theme(self, name: str) -> None:
        self.command("apputils:change-theme", theme=name)
        light = "true" if "Light" in name else "false"
        self.wait(f"document.body.dataset.jpThemeLight === '{light}'")
        self.page.wait_for_timeout(400)

    def width(self, pixels: int) -> None:
        """Give the right panel this width."""
        self.page.evaluate(
            """pixels => {
                const split = jupyterapp.shell._hsplitPanel;
                const sizes = split.widgets.map(w => w.isVisible ? w.node.clientWidth : 0);
                const wanted = pixels / sizes.reduce((a, b) => a + b);
                const rest = sizes.slice(0, -1).reduce((a, b) => a + b);
                split.setRelativeSizes([...sizes.slice(0, -1).map(s => s / rest * (1 - wanted)), wanted]);
            }""",
            pixels,
        )
        self.page.wait_for_timeout(200)

    def shot(self, name: str, of=None) -> Path:
        path = self.shots / f"{name}.png"
        (of or self.page).screenshot(path=str(path))
        return path


@contextmanager
def browser():
    """Start the chromium of this machine."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        message = "no chromium on this machine: apt-get install chromium fonts-dejavu-core"
        raise RuntimeError(message)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found)
        try:
            yield started
        finally:
            started.close()
