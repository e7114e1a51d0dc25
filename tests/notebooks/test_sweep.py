from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from waiting import PATIENCE_S, until

from nbkv import cli
from nbkv.errors import BadOption, LoadError
from nbkv.roster import running
from nbkv.show.progress import screen
from nbkv.sweep import execute, report, run
from nbkv.sweep.plan import plan, settings
from nbkv.sweep.records import record, recorded

LONG = f"time.sleep({2 * PATIENCE_S})"
PLOT = """import plotly.graph_objects as go
go.Figure(go.Scatter(y=[1, n, 4]), layout_title_text="a curve of its own")"""


def test_a_grid_becomes_one_row_a_setting(write, tmp_path):
    notebook = write(
        "square", "n = 1\nlabel = 'a'", "import nbkv\nnbkv.record(square=n * n)\nnbkv.record(note=label * 2)"
    )
    sweep = run(notebook, {"label": "b"}, {"n": [2, 5]}, tmp_path / "out")

    table = pd.read_csv(sweep.results)
    assert not sweep.failed
    assert table["n"].tolist() == [2, 5]
    assert table["square"].tolist() == [4, 25]
    assert table["note"].tolist() == ["bb", "bb"]
    assert (table["duration_s"] > 0).all()
    assert set(table["status"]) == {"ok"}
    assert [path.stem for path in sorted((tmp_path / "out").glob("*.ipynb"))] == [
        "square-label=b-n=2",
        "square-label=b-n=5",
    ]


def test_a_row_has_its_units_seed_and_machine(write, tmp_path):
    notebook = write(
        "measured",
        "seed = 5  # drawn\nn = 1",
        "import nbkv\nnbkv.record(ttft_s=0.5, room=2, units={'room': 'MiB'})\nnbkv.record(right=True)",
    )
    sweep = run(notebook, {}, {"n": [1, 2]}, tmp_path / "out")
    table = pd.read_csv(sweep.results)
    about = pd.read_csv(tmp_path / "out" / "columns.csv").set_index("column")
    assert table["seed"].tolist() == [5, 5]
    assert table["machine.torch"].notna().all()
    assert (about.loc["ttft_s", "unit"], about.loc["room", "unit"]) == ("s", "MiB")
    assert [about.loc[name, "type"] for name in ("ttft_s", "room", "right")] == ["float64", "Int64", "boolean"]
    page = sweep.report.read_text(encoding="utf-8")
    assert all(told in page for told in ("ttft_s (s)", "room (MiB)", "seed = 5"))


@pytest.mark.parametrize(
    ("given", "said"),
    [("{'other': 's'}", "units of 'other'"), ("{'a': 3}", "a dict of texts"), ("'s'", "a dict of texts")],
)
def test_units_of_nothing_are_refused_in_one_line(given, said):
    with pytest.raises(BadOption, match=said) as error:
        record(a=1, units=ast.literal_eval(given))
    assert "\n" not in str(error.value)


def test_running_again_replaces_and_a_new_setting_joins(write, tmp_path):
    notebook = write("draw", "n = 1", "import nbkv, time\nnbkv.record(drawn=time.time())")
    first = run(notebook, {"n": 1}, out_dir=tmp_path)
    again = run(notebook, {"n": 1}, out_dir=tmp_path, rerun=True)
    other = run(notebook, {"n": 2}, out_dir=tmp_path)

    assert first.runs[0].path == again.runs[0].path
    assert first.runs[0].records["drawn"] < again.runs[0].records["drawn"]
    assert [one.parameters for one in other.runs] == [{"n": 2}]
    assert [one.parameters for one in report(tmp_path).runs] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(("now", "before"), [([1, 2], 1), ([2, 1, 3], 1), ([1], 1)])
def test_what_ended_before_is_told_where_the_sweep_is_looked_at(write, tmp_path, monkeypatch, now, before):
    heard = []
    monkeypatch.setattr(screen, "shown_by", heard.append)
    notebook = write("say", "n = 1", "import nbkv; nbkv.record(n=n)")
    first = run(notebook, grid={"n": [1]}, out_dir=tmp_path)
    assert not first.before
    assert "not run again" not in repr(first) + first._repr_html_()
    heard.clear()
    sweep = run(notebook, grid={"n": now}, out_dir=tmp_path)

    told = f"<Sweep: {len(now)} run{'s' * (len(now) > 1)} ({before} ended before, not run again), 0 failed, "
    assert repr(sweep).startswith(told)
    assert sweep.before == {"say-n=1.ipynb"} == set(sweep.to_dict()["before"])
    status = ["ok, before" if n == 1 else "ok" for n in now]
    page = sweep._repr_html_()
    assert re.findall(r">(ok(?:, before)?)<", page) == status
    assert f"({before} ended before, not run again)" in page
    assert sweep.to_frame()["status"].tolist() == ["ok"] * len(now)
    assert heard[0].doing == f"1 run of {len(now)} ended before, not run again"
    assert (heard[-1].over, heard[-1].done) == (True, heard[-1].total)


def test_kernel_is_this_interpreter_in_the_notebooks_folder(write, tmp_path, monkeypatch):
    notebook = write("where", "n = 1", "import nbkv, os, sys\nnbkv.record(python=sys.executable, folder=os.getcwd())")
    monkeypatch.chdir(tmp_path)
    done = run(notebook.relative_to(tmp_path), out_dir="out").runs[0]

    assert done.records == {"python": sys.executable, "folder": str(notebook.parent)}
    assert done.path == tmp_path / "out" / "where.ipynb"
    assert Path.cwd() == tmp_path


def test_page_holds_the_plots_and_loads_nothing(write, tmp_path):
    notebook = write(
        "plots", "n = 3", PLOT, "from IPython.display import SVG\nSVG('<svg xmlns=\"x\"><desc>own</desc></svg>')"
    )
    text = run(notebook, {"n": 2}, out_dir=tmp_path / "out").report.read_text(encoding="utf-8")

    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("Plotly.newPlot(") >= 1
    assert "a curve of its own" in text
    assert "<desc>own</desc>" in text
    assert "prefers-color-scheme: dark" in own
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", own)
    assert 'href="plots-' in own


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("raise ValueError('first\\nthe last line')", "the last line"),
        ("raise ValueError", "ValueError"),
        ("from IPython.core.error import UsageError\nraise UsageError('wrong use')", "UsageError: wrong use"),
        ("import os\nos._exit(3)", "DeadKernelError: Kernel died"),
    ],
)
def test_a_failed_notebook_is_told_and_kept(write, tmp_path, capsys, source, line):
    good = write("good", "n = 1", "import nbkv\nnbkv.record(reached=True)")
    bad = write("bad", "n = 1", "import nbkv\nnbkv.record(before=1)", source, "nbkv.record(after=1)")
    code = cli.main(["run", str(bad), str(good), "-o", str(tmp_path / "out")])

    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("notebook")
    assert code == 1
    assert line in capsys.readouterr().err
    assert table.loc["bad.ipynb", "status"] == "failed"
    assert table.loc["bad.ipynb", "error"].endswith(line)
    assert table.loc["bad.ipynb", "before"] == 1
    assert "after" not in table
    assert table.loc["good.ipynb", "reached"]
    kept = nbformat.read(tmp_path / "out" / "bad.ipynb", as_version=4)
    assert any(source in cell.source for cell in kept.cells)


def test_parameters_reach_the_notebook_as_they_are_shown(write, tmp_path):
    given = {"size": (3, (4, np.int8(5))), "at": Path("a/b"), "n": range(2), "x": np.float32(0.5), "keys": {1: np.nan}}
    assigned = "size = at = n = x = keys = None"
    look = "import nbkv\nnbkv.record(seen=[size, at, n, x, keys], types=[type(v).__name__ for v in (size, at, n, x)])"
    (done,) = run(write("given", assigned, look), given, out_dir=tmp_path / "out").runs

    assert repr(list(done.parameters.values())) == repr([(3, (4, 5)), "a/b", [0, 1], 0.5, {1: float("nan")}])
    assert repr(done.records["seen"]) == repr(list(done.parameters.values()))
    assert done.records["types"] == ["tuple", "str", "list", "float"]


def test_parameters_records_and_the_runs_own_columns_stay_apart(write, tmp_path, capsys):
    names = ("run", "status", "seed", "error", "duration_s")
    source = "import nbkv, math\n" + "".join(f"nbkv.record({name}={name!r})\n" for name in names)
    numbers = "nbkv.record(nothing=math.nan, everything=-math.inf, deep={'a': [math.inf]})"
    notebook = write("names", "\n".join(f"{name} = 0" for name in names), source, numbers)
    code = cli.main(["run", str(notebook), *("-p status 5 -p seed 7 -p run 8".split()), "-o", str(tmp_path / "out")])

    assert code == 0
    (done,) = report(tmp_path / "out").runs
    (row,) = report(tmp_path / "out").rows()
    assert (row["status"], row["error"]) == ("ok", "")
    assert row["duration_s"] > 0
    assert {name: row[f"parameter.{name}"] for name in ("run", "status", "seed")} == {"run": 8, "status": 5, "seed": 7}
    recorded = {name: row["seed" if name == "seed" else f"record.{name}"] for name in names}
    assert recorded == {name: name for name in names}
    assert repr(done.records["nothing"]) == "nan"
    assert done.records["everything"] == -float("inf")
    assert done.records["deep"] == {"a": [float("inf")]}
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["everything"].tolist() == [-float("inf")]
    assert table["parameter.seed"].tolist() == [7]
    shown = capsys.readouterr().out
    assert "{" not in shown
    assert "1 value" in shown
    assert "names-run=8-seed=7-status=5" in shown


def test_one_bad_job_never_ends_the_others(write, tmp_path, monkeypatch):
    good = write("good {n}", "n = 1", "import nbkv\nnbkv.record(seen=n)")
    jobs = plan([good], {}, settings({"n": [1, 2, 3, 4]}), tmp_path / "out")
    broken = {2: OSError("no space left"), 3: ValueError("papermill found\nsomething odd")}
    run_one = execute._executed

    def strikes(job, *given):
        if job.parameters["n"] in broken:
            raise broken[job.parameters["n"]]
        return run_one(job, *given)

    monkeypatch.setattr(execute, "_executed", strikes)
    jobs[-1].output.mkdir()  # so that nothing can be written there
    (tmp_path / "out" / "torn.ipynb").write_text("{")
    sweep = run(good, {}, {"n": [1, 2, 3, 4]}, tmp_path / "out")

    assert [one.status for one in sweep.runs] == ["ok", "failed", "failed", "failed"]
    assert [one.error for one in sweep.runs[1:3]] == ["OSError: no space left", "something odd"]
    assert sweep.runs[0].records == {"seen": 1}
    assert pd.read_csv(sweep.results)["n"].tolist() == [1, 2, 3]
    assert sweep.report.is_file()


def test_each_cell_is_told_before_it_runs(write, tmp_path, monkeypatch):
    notebook, told = write("cells", "n = 1", "n", "import nbkv\nnbkv.record(n=n)"), []
    monkeypatch.setattr(screen, "shown_by", told.append)
    run(notebook, {}, {"n": [1, 2]}, tmp_path / "out")
    assert [event.doing for event in told[:4]] == [f"cells-n=1, cell {cell} of 4" for cell in (1, 2, 3, 4)]
    assert [event.done for event in told[:-1]] == list(range(8))
    assert {event.total for event in told} == {8}
    assert told[-1].over


def test_report_makes_the_same_page_again(write, tmp_path, capsys):
    notebook = write("square", "n = 1", "import nbkv\nnbkv.record(square=n * n)", PLOT)
    assert cli.main(["run", str(notebook), "-p", "n", "3", "-o", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "results.csv").read_text()
    for name in ("results.csv", "report.html"):
        (tmp_path / "out" / name).unlink()

    assert cli.main(["report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "results.csv").read_text() == table
    assert "a curve of its own" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out


def test_report_of_nothing_is_an_error(tmp_path):
    with pytest.raises(LoadError, match="nothing was run into"):
        report(tmp_path)
    with pytest.raises(LoadError, match="no folder"):
        report(tmp_path / "missing")


def test_the_examples_in_the_readme_run(write, tmp_path):
    root = Path(__file__).resolve().parents[2]
    pages = (root / "README.md", root / "docs" / "guide.md")
    example, chunks, blocks = (
        code
        for page in pages
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
    assert '"smollm2"' in example  # which not every machine has
    texts = "item = nbkv.tasks.ledger(seed=0, n=1, chunks=8)[0]\ncontract_text, minutes_text = item.chunks[:2]"
    look = "nbkv.record(rate=session.history()['hit_rate'].iloc[0], n=len(session.history()))"
    cells = (example.replace('"smollm2"', '"tiny"'), look, texts, chunks, blocks)
    sweep = run(write("example", "seed = 0", *cells), out_dir=tmp_path / "out")

    assert not sweep.failed, sweep.failed[0].error
    assert sweep.runs[0].records["rate"] > 0.5


def test_an_interrupt_leaves_no_kernel_and_a_table_of_what_has_run(write, tmp_path):
    first = write("first", "n = 1", "import nbkv\nnbkv.record(n=n)")
    second = write("second", "n = 1", "import nbkv, os\nnbkv.record(pid=os.getpid())", f"import time\n{LONG}")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nbkv.cli", "run", str(first), str(second), "-o", str(out)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pid = until(lambda: recorded_in(out / "second.ipynb").get("pid"))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=PATIENCE_S)

    assert child.returncode == 130
    assert said.rstrip().endswith("nbkv: interrupted")
    assert pd.read_csv(out / "results.csv")["n"].tolist() == [1]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("where", ["before a cell", "while a cell runs"])
def test_a_stop_keeps_what_has_run(write, tmp_path, monkeypatch, where):
    notebook = write("long", "n = 1", "import nbkv\nnbkv.record(n=n)", f"import time\nn == 1 or {LONG}", "n")
    told = []

    def listener(event):
        told.append(event.doing)
        if event.doing == "long-n=2, cell 4 of 5" and len(told) == told.index(event.doing) + 1:
            (work,) = running()
            assert work.to_dict()["doing"] == event.doing
            # the kernel is asked to begin the cell just after this: only then is there something to interrupt
            after = threading.Thread(target=lambda: (until(lambda: recorded_in(out / "long-n=2.ipynb")), work.stop()))
            work.stop() if where == "before a cell" else after.start()

    out = tmp_path / "out"
    monkeypatch.setattr(screen, "shown_by", listener)
    sweep = run(notebook, {}, {"n": [1, 2, 3]}, out)

    assert sweep.stopped == "stopped after 1 of 3 runs"
    assert sweep.stopped in repr(sweep)
    assert [(one.status, one.error, one.records) for one in sweep.runs] == [
        ("ok", "", {"n": 1}),
        ("failed", "stopped", {"n": 2}),
    ]
    assert pd.read_csv(sweep.results)["n"].tolist() == [1, 2]
    assert sweep.to_dict()["stopped"] == sweep.stopped
    assert not running()


def recorded_in(path):
    try:
        return recorded(nbformat.read(path, as_version=4))
    except (OSError, ValueError, nbformat.reader.NotJSONError):  # not there yet, or half written
        return {}
