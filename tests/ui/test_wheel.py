"""The wheel brings the extension, built, to an environment that has no node."""

from __future__ import annotations

import re
import subprocess

import browser


def ask(python, folder, code, *arguments):
    command = [str(python), "-c", code, *arguments]
    done = subprocess.run(command, env=browser.alone(PATH=""), cwd=folder, capture_output=True, text=True, check=True)
    return re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)


def test_jupyter_lists_the_extension_as_enabled(python, tmp_path):
    listed = ask(python, tmp_path, "from jupyterlab.labextensions import main; main()", "list")
    assert "nbkv-lab v0.1.0 enabled OK (python, nbkv)" in listed


def test_nbkv_comes_from_the_wheel(python, tmp_path):
    where = ask(python, tmp_path, "import nbkv; print(nbkv.__file__)")
    assert str(python.parents[1]) in where
    assert str(browser.ROOT) not in where
