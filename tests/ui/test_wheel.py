"""The wheel brings the extension, built, to where there is no node; the same sources give the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import browser
import pandas as pd
import pytest

EPOCH = "1700000000"
BUILD = "from hatchling import build; print(build.build_{kind}({folder!r}))"
LEFT_OUT = (".git", ".venv", "node_modules", "runs", "screenshots", "__pycache__", ".*_cache", "build", "dist")


def ask(python, folder, code, *arguments):
    command = [str(python), "-c", code, *arguments]
    done = subprocess.run(command, env=browser.alone(PATH=""), cwd=folder, capture_output=True, text=True, check=True)
    return re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)


def left_out(folder, names):
    """Leave out what git ignores; a folder of models is ignored at the top only."""
    return shutil.ignore_patterns(*LEFT_OUT)(folder, names) | ({"models"} if Path(folder) == browser.ROOT else set())


def built(source, kind, folder):
    """Build a ``wheel`` or an ``sdist`` of the sources in ``source``; return its name and its digest."""
    code = BUILD.format(kind=kind, folder=str(folder))
    env = browser.alone(SOURCE_DATE_EPOCH=EPOCH)
    done = subprocess.run([sys.executable, "-c", code], cwd=source, env=env, capture_output=True, text=True, check=True)
    name = done.stdout.split()[-1]
    return name, sha256((folder / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The checkout twice, in other folders and with other times."""
    found = []
    for name, second in (("one", 1_600_000_000), ("other", 1_650_000_000)):
        root = tmp_path_factory.mktemp(name) / name
        shutil.copytree(browser.ROOT, root, ignore=left_out)
        for path in root.rglob("*"):
            os.utime(path, (second, second))
        found.append(root)
    return found


def test_jupyter_lists_the_extension_as_enabled(python, tmp_path):
    listed = ask(python, tmp_path, "from jupyterlab.labextensions import main; main()", "list")
    assert "nbkv-lab v0.1.0 enabled OK (python, nbkv)" in listed


def test_nbkv_comes_from_the_wheel(python, tmp_path):
    where = ask(python, tmp_path, "import nbkv; print(nbkv.__file__)")
    assert str(python.parents[1]) in where
    assert str(browser.ROOT) not in where


def test_the_demo_runs_from_the_wheel(python, tmp_path):
    command = [str(python.parent / "nbkv"), "demo", "-o", str(tmp_path / "demo")]
    env = browser.alone(PATH="", NBKV_CACHE=str(tmp_path / "remembered"))
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = pd.read_csv(tmp_path / "demo" / "results.csv").iloc[0]
    assert (row["status"], row["identical"]) == ("ok", True)
    assert (tmp_path / "demo" / "report.html").is_file()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_same_sources_give_the_same_bytes(copies, kind, tmp_path):
    one, other = (built(root, kind, tmp_path) for root in copies)
    assert one == other


def test_other_sources_give_other_bytes_and_the_extension_is_in(copies, tmp_path):
    name, before = built(copies[0], "wheel", tmp_path)
    with zipfile.ZipFile(tmp_path / name) as packed:
        names = packed.namelist()
    assert [path for path in names if path.endswith("labextensions/nbkv-lab/package.json")]
    changed = copies[1] / "nbkv" / "errors.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert built(copies[1], "wheel", tmp_path) != (name, before)
