"""An editable install is found from every folder, whatever folders of its names lie there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from jupyter_client import KernelManager
from waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
LOOK = """if True:
    import json, nbkv
    from importlib.util import find_spec
    nbkv.BadOption
    other = find_spec("kernels")
    print(json.dumps([nbkv.__file__, find_spec("nbkv_kernels").origin, other is None or other.origin is not None]))"""
HERE = [str(ROOT / "nbkv" / "__init__.py"), str(ROOT / "kernels" / "nbkv_kernels" / "__init__.py")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What pip makes of this checkout, in a folder that an interpreter reads at its start as it does site-packages."""
    folder, start = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("start")
    build = f"from hatchling.build import build_editable; build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    (start / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(folder)!r})", encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(start)}


@pytest.fixture
def above(tmp_path):
    """The folder above a clone, which is called as the package is."""
    (tmp_path / "nbkv").symlink_to(ROOT, target_is_directory=True)
    return tmp_path


def look(folder, environment):
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("where", ["above the clone", "/", "beside kernels/", "an empty folder"])
def test_python_finds_the_checkout_from_every_folder(environment, above, tmp_path_factory, where):
    folder = {"above the clone": above, "/": Path("/"), "an empty folder": tmp_path_factory.mktemp("empty")}.get(where)
    if folder is None:
        folder = tmp_path_factory.mktemp("beside")
        (folder / "nbkv_kernels").mkdir()
        (folder / "nbkv").mkdir()

    assert json.loads(look(folder, environment)) == [*HERE, True]


def test_a_package_of_the_name_on_the_path_still_goes_first(environment, tmp_path):
    (tmp_path / "nbkv").mkdir()
    (tmp_path / "nbkv" / "__init__.py").write_text("BadOption = None", encoding="utf-8")

    assert json.loads(look(tmp_path, environment))[0] == str(tmp_path / "nbkv" / "__init__.py")


def test_a_kernel_started_above_the_clone_finds_it(environment, above):
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(cwd=str(above), env=environment)
    client, said = manager.client(), []
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE_S)
        client.execute_interactive(LOOK, output_hook=lambda told: said.append(told["content"].get("text", "")))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    assert json.loads("".join(said)) == [*HERE, True]
