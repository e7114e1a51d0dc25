from __future__ import annotations

import json

import pytest

from nbkv.errors import BadOption, LoadError
from nbkv.sweep.plan import inject, plan, read_grid, settings


def write(path, *sources, tag="parameters"):
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "execution_count": None,
            "outputs": [],
            "source": source,
            "metadata": {"tags": [tag]},
        }
        for i, source in enumerate(sources)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "some.ipynb", "n, m = 1, 2\nk: int = 3")


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


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("%matplotlib inline\nn = 1", {"n"}),
        ("!ls\nfiles = !ls\nn = 1", {"files", "n"}),
        ("n = 1\nlen?\n?len\nlen??", {"n"}),
        ("%%time\nn, m = 1, 2", {"n", "m"}),
        ("now = %pwd\nif True:\n    n = 1", {"now", "n"}),
    ],
)
def test_a_parameters_cell_is_read_as_ipython_reads_it(tmp_path, source, names):
    path = write(tmp_path / "magic.ipynb", source)
    (job,) = plan(path, dict.fromkeys(names, 7), [{}], tmp_path / "out")
    assert set(job.parameters) == names
    with pytest.raises(BadOption, match=f"they have: {', '.join(sorted(names))}"):
        plan(path, {"none_such": 1}, [{}], tmp_path / "out")


@pytest.mark.parametrize("source", ["n = = 1", "def", "n = (1"])
def test_a_parameters_cell_that_is_no_python_is_one_line(tmp_path, source):
    with pytest.raises(LoadError, match=r"^a parameters cell of bad.ipynb is no Python: .*\(line 1\)$"):
        plan(write(tmp_path / "bad.ipynb", source), {}, [{}], tmp_path / "out")


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", len, 3 + 4j, [object()], {"a": {1}}])
def test_what_no_notebook_can_be_given_is_refused_before_anything_runs(notebook, tmp_path, value):
    for asked in ({"n": value}, {}):
        with pytest.raises(BadOption, match=r"^n is an? \w+ \(accepted: "):
            plan(notebook, asked, settings([{"n": value}]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_say_the_parameters(notebook, tmp_path):
    grid = [{"n": 2, "k": "full"}, {"n": "2"}, {"n": (1, 2)}, {"n": "a/b c"}, {"n": "x" * 200}, {"n": "a_b_c"}]
    names = [job.output.stem for job in plan(notebook, {}, settings(grid), tmp_path)]
    assert names[0] == "some-k=full-n=2"
    assert names[-1] == "some-n=a_b_c"
    assert len(set(names)) == len(grid)
    assert max(map(len, names)) <= 90
    assert all(name.startswith("some-n=") for name in names[1:])
    assert not any(set(name) & set("/ ?(){}'\"") for name in names)
    again = [job.output.stem for job in plan(notebook, {}, settings(grid), tmp_path)]
    assert again == names


def test_parameters_are_assigned_behind_the_cells_that_declare_them(tmp_path):
    import nbformat

    path = write(tmp_path / "two.ipynb", "n = 1", "m = 2")
    book = nbformat.read(path, as_version=4)
    for value in (3, (4, "five")):  # a notebook that has run is run again
        inject({"n": value}, book)
    assert [cell.source for cell in book.cells] == ["n = 1", "m = 2", "# Parameters\nn = (4, 'five')"]
    inject({}, book)
    assert len(book.cells) == 2
