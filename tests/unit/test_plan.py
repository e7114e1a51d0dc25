from __future__ import annotations

import json

import pytest

from nbkv.errors import BadOption, LoadError
from nbkv.sweep.plan import plan, read_grid, settings


@pytest.fixture
def notebook(tmp_path):
    cell = {"cell_type": "code", "id": "a", "execution_count": None, "outputs": [], "source": "n, m = 1, 2\nk: int = 3"}
    cell["metadata"] = {"tags": ["parameters"]}
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_settings_are_combinations_or_a_list():
    assert settings(None) == [{}]
    assert settings({"n": [1, 2], "k": 3}) == [{"n": 1, "k": 3}, {"n": 2, "k": 3}]
    assert settings([{"n": 1}, {"n": 2, "k": 3}]) == [{"n": 1}, {"n": 2, "k": 3}]
    with pytest.raises(BadOption, match="got str"):
        settings("n")


def test_each_run_once_and_named_by_what_it_gets(notebook, tmp_path):
    jobs = plan(notebook, {"k": 5}, [{"n": 1}, {"n": 2}, {"n": 1}], tmp_path / "out")
    assert [job.parameters for job in jobs] == [{"k": 5, "n": 1}, {"k": 5, "n": 2}]
    assert len({job.output for job in jobs}) == 2
    assert [job.output.name for job in plan([notebook], {}, [{}], tmp_path)] == ["some.ipynb"]


def test_namesakes_do_not_overwrite_each_other(notebook, tmp_path):
    other = tmp_path / "other" / notebook.name
    other.parent.mkdir()
    other.write_bytes(notebook.read_bytes())
    assert len({job.output for job in plan([notebook, other], {}, [{}], tmp_path / "out")}) == 2


def test_a_parameter_nobody_takes_is_refused(notebook, tmp_path):
    with pytest.raises(BadOption, match=r"no notebook has a parameter 'nn', did you mean 'n'\? \(they have: k, m, n\)"):
        plan([notebook], {"nn": 1}, [{}], tmp_path)
    with pytest.raises(BadOption, match="'x'"):
        plan([notebook], {}, [{"x": 1}], tmp_path)


@pytest.mark.parametrize("text", ["no json", "{}", "[1]", '{"nbformat": 4}'])
def test_what_is_no_notebook_is_refused(tmp_path, text):
    path = tmp_path / "other.ipynb"
    path.write_text(text)
    with pytest.raises(LoadError, match="is no notebook"):
        plan(path, {}, [{}], tmp_path)


def test_missing_notebooks_and_grids(tmp_path):
    with pytest.raises(LoadError, match="No such file"):
        plan(tmp_path / "none.ipynb", {}, [{}], tmp_path)
    with pytest.raises(LoadError, match="cannot read the grid"):
        read_grid(tmp_path / "none.yaml")
    with pytest.raises(BadOption, match="no notebook given"):
        plan([], {}, [{}], tmp_path)


def test_grid_files(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("n: [1, 2]\nstrategy: [full, prefix]\n")
    assert read_grid(path) == {"n": [1, 2], "strategy": ["full", "prefix"]}
    path.write_text("n: [1")
    with pytest.raises(BadOption, match="is no YAML"):
        read_grid(path)
    path.write_text("just text")
    with pytest.raises(BadOption, match="a grid is"):
        read_grid(path)
