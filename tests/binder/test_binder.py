"""Binder's steps in a fresh environment, then the quickstart with one core and 2 GB.

There is no conda here: what environment.yml names is taken from pip instead, torch in the version of constraints.txt.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import time
import venv
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 2 * 1024**3
SERVER = 300 * 1024**2  # what JupyterLab itself takes of it
pytestmark = pytest.mark.slow
LEFT_OUT = (".git", ".venv", "node_modules", "runs", "screenshots", "__pycache__", ".*_cache", "build", "dist")


def left_out(folder, names):
    """Leave out what git ignores; a folder of models is ignored at the top only."""
    return shutil.ignore_patterns(*LEFT_OUT)(folder, names) | ({"models"} if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return a copy of the repository and the environment its ``postBuild`` has filled."""
    folder = tmp_path_factory.mktemp("binder")
    shutil.copytree(ROOT, folder / "repo", ignore=left_out)
    venv.create(folder / "venv", with_pip=True)
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    env["PATH"] = f"{folder / 'venv' / 'bin'}:{env['PATH']}"
    torch = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    subprocess.run(["python", "-m", "pip", "install", "-q", torch], env=env, check=True)  # noqa: S607
    subprocess.run([folder / "repo" / "binder" / "postBuild"], cwd=folder / "repo", env=env, check=True)
    return folder, env


def confined():
    """Allow one core, and no more memory of its own to each process than there is in all."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def held(process):
    """Return the bytes that a process and all it started hold, shared pages counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def test_the_files_are_what_repo2docker_reads():
    wanted = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    assert set(wanted) == {"channels", "dependencies"}
    assert [name for name in wanted["dependencies"] if name.startswith("pytorch-cpu")]
    for name in ("postBuild", "start"):
        path = ROOT / "binder" / name
        assert path.stat().st_mode & stat.S_IXUSR
        assert path.read_text().startswith("#!/bin/bash\n")
    assert (ROOT / "binder" / "start").read_text().endswith('exec "$@"\n')


def test_nothing_comes_from_the_development_environment(image):
    folder, env = image
    code = "import nbkv, torch, sys; print(nbkv.__file__, torch.__file__, 'pytest' in sys.modules)"
    said = subprocess.run(["python", "-c", code], env=env, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S607
    assert said.stdout.count(str(folder / "venv")) == 2
    assert subprocess.run(["python", "-c", "import pytest"], env=env, capture_output=True, check=False).returncode  # noqa: S607


def test_the_quickstart_runs_on_one_core_in_two_gigabytes(image):
    folder, env = image
    out = folder / "out"
    command = [folder / "repo" / "binder" / "start", "nbkv", "run", "notebooks/00_quickstart.ipynb", "-o", out]
    started = psutil.Popen(
        command, env=env, cwd=folder / "repo", preexec_fn=confined, stdout=sys.stderr, stderr=subprocess.STDOUT
    )  # fmt: skip
    most = 0
    while started.poll() is None:
        most = max(most, held(started))
        time.sleep(0.1)
    assert started.returncode == 0
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert row["status"] == "ok"
    assert row["hit_rate"] > 0.9
    assert row["identical"]
    sys.stderr.write(f"\nthe quickstart held at most {most / 1e9:.2f} GB\n")
    assert most + SERVER < LIMIT
