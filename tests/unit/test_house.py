"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nbkv"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
USUAL, CEILING = 300, 450
README_MARKS = r"<!-- strategies: .*?-->\n(.*?)\n<!-- end -->"


def shown(path):
    return str(path.relative_to(ROOT))


def python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_import_does_not_load_torch():
    heavy = ["torch", "transformers", "numpy", "pandas", "IPython", "plotly", "papermill"]
    loaded = python(f"import sys, nbkv; print([name for name in {heavy} if name in sys.modules])")
    assert loaded.stdout.strip() == "[]"


def test_import_takes_under_a_tenth_of_a_second():
    # The best of five: a busy machine only ever adds time.
    code = "import time; t = time.perf_counter(); import nbkv; print(time.perf_counter() - t)"
    assert min(float(python(code).stdout) for _ in range(5)) < 0.1


def test_public_names_are_there_and_nothing_else():
    code = "import nbkv; [getattr(nbkv, name) for name in nbkv.__all__]; print(sorted(nbkv.__all__) == nbkv.__all__)"
    assert python(code).stdout.strip() == "True"
    assert python("import nbkv; print(hasattr(nbkv, 'no_such_name'))").stdout.strip() == "False"


def test_every_strategy_module_is_named_after_its_strategy():
    from nbkv.registry import strategies

    own = {path.stem for path in (PACKAGE / "strategies").glob("*.py")} - {"__init__"}
    assert {name for name in strategies.names() if strategies.get(name).__module__.startswith("nbkv.")} == own


def test_readme_shows_the_strategies_there_are():
    import nbkv
    from nbkv.cli import markdown

    table = re.search(README_MARKS, (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert table, "README.md has lost the marks around its strategies table"
    assert table[1].strip() == markdown(nbkv.strategies()), "paste the output of `nbkv list --markdown` into README.md"


def test_floors_hold():
    done = subprocess.run(
        [shutil.which("lint-imports", path=sysconfig.get_path("scripts")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_name_kernels_stays_free(tmp_path):
    code = "import importlib.util as u, nbkv; spec = u.find_spec('kernels'); print(spec and spec.origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_library_code(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= CEILING, "a room this large has two uses: split it"
    calls = {node.func.id for node in ast.walk(ast.parse(text)) if is_call_by_name(node)}
    assert "print" not in calls
    assert path.stem not in {"utils", "common", "helpers", "manager", "engine", "core", "misc"}


def test_rooms_are_small():
    lengths = sorted(path.read_text(encoding="utf-8").count("\n") for path in SOURCES)
    assert lengths[len(lengths) // 2] <= 120
    assert sum(length > USUAL for length in lengths) <= len(lengths) // 30


def is_call_by_name(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def committed():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    paths = [ROOT / line for line in done.stdout.splitlines()] or [*SOURCES, *NOTEBOOKS]
    return [path for path in paths if path.is_file() and path.suffix not in {".safetensors", ".png", ".ico"}]


def test_nothing_names_a_machine():
    # Home folders, scratch folders with a user's work, and package indexes belong to a machine, not to a repository.
    found = re.compile(r"/(?:home|Users)/\w+/|/root/|/work/|://(?:\w+\.)*pypi\w*\.|--(?:extra-)?index-url")
    mine = Path(__file__).resolve()
    for path in committed():
        if path.resolve() != mine:
            hit = found.search(path.read_text(encoding="utf-8", errors="replace"))
            assert hit is None, f"{shown(path)} names {hit[0] if hit else ''}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=shown)
def test_notebooks_are_clean_and_take_parameters(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code), "clear the outputs: they are made again by running"
    assert not any(cell["execution_count"] for cell in code)
    assert any("parameters" in cell["metadata"].get("tags", []) for cell in code)


def test_constraints_pin_everything_we_depend_on():
    import tomllib

    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pinned


def test_what_we_import_is_declared():
    import tomllib

    given_by = {"IPython": "ipython", "yaml": "pyyaml", "jupyter_client": "jupyter-client"}
    # Parts of a declared distribution's own interface that live in a distribution it requires.
    brought_along = {"zmq", "traitlets", "tokenizers", "huggingface_hub"}
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"nbkv", "nbkv_kernels"} - brought_along
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    asked = project["dependencies"] + extras
    names = {re.match(r"[\w-]+", line)[0].lower() for line in asked}
    assert {given_by.get(name, name) for name in outside} <= names
    assert all(importlib.util.find_spec(name) for name in outside)
