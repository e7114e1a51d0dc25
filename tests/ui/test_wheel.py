"""The wheel brings the extension, built, to an environment that has no node."""

from __future__ import annotations

import subprocess

import browser


def test_jupyter_lists_the_extension_as_enabled(python):
    code = "from jupyterlab.labextensions import main; main()"
    done = subprocess.run(
        [str(python), "-c", code, "list"], env=browser.alone(PATH=""), capture_output=True, text=True, check=True
    )
    assert "nbkv-lab v0.1.0 enabled OK (python, nbkv)" in done.stdout + done.stderr


def test_nbkv_comes_from_the_wheel(python):
    code = "import nbkv; print(nbkv.__file__)"
    done = subprocess.run([str(python), "-c", code], env=browser.alone(), capture_output=True, text=True, check=True)
    assert str(browser.ROOT) not in done.stdout
