from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import yaml
from waiting import PATIENCE_S, until

from nbkv import cli
from nbkv.errors import BadOption, LoadError
from nbkv.show.progress import screen
from nbkv.sweep import execute, report, run
from nbkv.sweep.cluster import devices, dispatch
from nbkv.sweep.cluster.parcel import heard
from nbkv.sweep.cluster.workers import cluster_workers, local_workers

GRID = {"product": {"seed": [0, 1, 2, 3]}, "zip": {"n": [1, 2, 3], "label": ["a", "b", "c"]}}
DRAW = "import random, nbkv\nrandom.seed(seed)\nnbkv.record(drawn=[random.random() for _ in range(n)], note=label * n)"
OWN = ["duration_s"]


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr("nbkv.sweep.cluster.workers._PATIENCE", f"{PATIENCE_S}s")


@pytest.fixture(scope="module")
def two():
    with local_workers(2) as client:
        yield client


def rows(sweep):
    return pd.read_csv(sweep.results, keep_default_na=False).drop(columns=OWN).to_dict("records")


def test_twelve_runs_on_two_workers_give_the_rows_of_one_after_another(write, tmp_path, two, monkeypatch, caplog):
    notebook, told = write("draw", "seed = n = 1\nlabel = ''", DRAW), []
    alone = run(notebook, {}, GRID, tmp_path / "alone")
    monkeypatch.setattr(screen, "shown_by", told.append)
    spread = run(notebook, {}, GRID, tmp_path / "spread", scheduler=two.scheduler.address)

    assert len(spread.runs) == 12
    assert not spread.failed
    assert rows(spread) == rows(alone)
    assert [one.path.name for one in spread.runs] == [one.path.name for one in alone.runs]
    cells = [event.doing for event in told if not event.over and event.doing]
    assert sorted(cells) == sorted(f"{one.path.stem}, cell {cell} of 3" for one in spread.runs for cell in (1, 2, 3))

    caplog.set_level("INFO", "nbkv")
    again = run(notebook, {}, GRID, tmp_path / "spread", workers=2)
    assert again.to_dict() | {"before": []} == spread.to_dict()  # nothing ran, not even workers
    assert sorted(again.before) == sorted(one.path.name for one in spread.runs)
    assert "12 runs ran to the end before" in caplog.text
    assert "workers on this machine" not in caplog.text


def test_only_what_has_changed_runs_again(write, tmp_path):
    first = "import nbkv, os\nnbkv.record(pid=os.getpid(), n=n)"
    notebook = write("pid", "n = 1", first)
    before = run(notebook, {}, {"n": [1, 2]}, tmp_path / "out")
    more = run(notebook, {}, {"n": [1, 2, 3]}, tmp_path / "out")
    assert [one.records["pid"] for one in more.runs[:2]] == [one.records["pid"] for one in before.runs]
    assert more.runs[2].records["n"] == 3

    write("pid", "n = 1", first + "\nnbkv.record(more=1)")
    changed = run(notebook, {}, {"n": [1, 2]}, tmp_path / "out")
    assert [one.records["more"] for one in changed.runs] == [1, 1]
    asked = run(notebook, {}, {"n": [1, 2]}, tmp_path / "out", rerun=True)
    assert {one.records["pid"] for one in asked.runs}.isdisjoint(one.records["pid"] for one in changed.runs)


@pytest.mark.parametrize("where", [{}, {"workers": 2}])
def test_a_failed_run_is_tried_again_and_runs_again_next_time(write, tmp_path, where):
    count = tmp_path / "count"
    strikes = f"with open({str(count)!r}, 'a') as file: file.write('x')\nassert len(open({str(count)!r}).read()) > n"
    notebook = write("strikes", "n = 2", strikes, "import nbkv\nnbkv.record(done=True)")
    (failed,) = run(notebook, out_dir=tmp_path / "out", retries=1, **where).runs
    assert (failed.status, count.read_text()) == ("failed", "xx")
    (done,) = run(notebook, out_dir=tmp_path / "out", retries=1, **where).runs
    assert (done.status, done.records, count.read_text()) == ("ok", {"done": True}, "xxx")
    kept = nbformat.read(done.path, as_version=4)
    assert kept.metadata["nbkv"]["attempts"] == 1


def test_a_run_that_takes_too_long_is_ended_and_kept(write, tmp_path, monkeypatch):
    notebook = write("slow", "n = 1", "import nbkv\nnbkv.record(n=n)", "import time\ntime.sleep(6000)")
    own = execute._clock

    def only_while_it_sleeps(timeout):
        left = own(timeout)
        return lambda cell: 1 if "sleep" in cell.source else left(cell)

    monkeypatch.setattr(execute, "_clock", only_while_it_sleeps)
    (slow,) = run(notebook, out_dir=tmp_path / "out", timeout=3000).runs
    assert (slow.status, slow.error, slow.records) == ("failed", "it took longer than 3000 s", {"n": 1})


def test_cells_share_the_time_of_their_run(monkeypatch):
    now = iter([100.0, 100.0, 104.5, 109.7, 300.0])
    monkeypatch.setattr(execute.time, "monotonic", lambda: next(now))
    left = execute._clock(10)
    assert [left(None) for _ in range(4)] == [10, 6, 1, 1]
    assert execute._clock(None) is None


def test_a_worker_that_dies_loses_nothing(write, tmp_path, two):
    died = tmp_path / "died"
    dies = (
        "import os, pathlib, signal\n"
        f"died = pathlib.Path({str(died)!r})\n"
        "if n == 2 and not died.exists():\n"
        "    died.write_text('once')\n"
        "    os.kill(os.getppid(), signal.SIGKILL)  # the worker that runs this kernel"
    )
    notebook = write("dies", "n = 1", dies, "import nbkv\nnbkv.record(n=n)")
    sweep = run(notebook, {}, {"n": [1, 2, 3, 4]}, tmp_path / "out", scheduler=two.scheduler.address)
    assert died.exists()
    assert [one.records for one in sweep.runs] == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]


def test_a_task_that_cannot_be_done_is_the_error_of_its_run(write, tmp_path, two, monkeypatch):
    class Broken:
        def __init__(self, job, *_):
            self.job = job

        def carry_out(self):
            raise {1: OSError("no space left\non the worker"), 2: ValueError("odd")}[self.job.parameters["n"]]

    monkeypatch.setattr(dispatch, "Parcel", Broken)
    notebook = write("none", "n = 1")
    sweep = run(notebook, {}, {"n": [1, 2]}, tmp_path / "out", scheduler=two.scheduler.address)
    assert [one.error for one in sweep.runs] == ["OSError: no space left on the worker", "ValueError: odd"]
    assert len(sweep.failed) == 2


def test_cells_of_another_sweep_are_not_counted():
    told = []
    work = SimpleNamespace(step=told.append)
    for sweep in ("mine", "other", "mine"):
        heard(work, "mine", (0.0, {"sweep": sweep, "doing": sweep}))
    assert told == ["mine", "mine"]


def test_an_interrupt_keeps_what_is_done_and_leaves_no_worker(write, tmp_path):
    pids = tmp_path / "pids"
    long = (
        f"import os, time\nopen({str(pids)!r}, 'a').write(f'{{os.getppid()}} {{os.getpid()}} ')\n"
        f"time.sleep({2 * PATIENCE_S} * (n > 1))"
    )
    notebook = write("long", "n = 1", long, "import nbkv\nnbkv.record(n=n)")
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text(yaml.safe_dump({"n": [1, 2, 3]}))
    command = [sys.executable, "-m", "nbkv.cli", "run", str(notebook), "--grid", str(grid), "-o", str(out)]
    told = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([*command, "--workers", "2"], **told) as child:
        for line in child.stderr:
            if "long-n=1" in line and "[1/3]" in line:
                break
        until(lambda: len(pids.read_text().split()) == 6)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        said = child.stderr.read()

    assert child.returncode == 130
    assert "nbkv: interrupted" in said.splitlines()
    assert "Traceback" not in said
    assert pd.read_csv(out / "results.csv")["n"].tolist() == [1]
    for pid in map(int, pids.read_text().split()):
        while running(pid):
            os.sched_yield()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"workers": 0}, "workers=0 is no number"),
        ({"workers": 1.5}, "workers=1.5 is no number"),
        ({"workers": True}, "workers=True"),
        ({"scheduler": 5}, "scheduler=5 is no address"),
        ({"workers": 2, "scheduler": "tcp://x:1"}, "not both"),
        ({"timeout": 0}, "timeout=0 is no time"),
        ({"timeout": "long"}, "timeout='long'"),
        ({"retries": -1}, "retries=-1"),
        ({"grid": {"zip": {"n": [1, 2], "m": [1]}}}, "n has 2, m has 1"),
    ],
)
def test_what_cannot_be_is_one_line(write, tmp_path, given, told):
    with pytest.raises(BadOption, match=told) as refused:
        run(write("one", "n = m = 1"), out_dir=tmp_path / "out", **given)
    assert "\n" not in str(refused.value)


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("nbkv.sweep.cluster.workers._PATIENCE", "200ms")
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://"):
        with pytest.raises(LoadError, match="no dask scheduler answers"), cluster_workers(address):
            pass


def test_workers_with_another_version_are_refused(two):
    def other(told):
        from nbkv.sweep import content

        content.true = getattr(content, "true", content.software)
        content.software = content.true if told is None else lambda: told

    worker = next(iter(two.nthreads()))
    try:
        two.run(other, "another", workers=[worker])
        with (
            pytest.raises(LoadError, match=r"1 workers of .* have another nbkv"),
            cluster_workers(two.scheduler.address),
        ):
            pass
    finally:
        two.run(other, None, workers=[worker])


@pytest.mark.parametrize(("given", "seen"), [(None, ["0", "1", "0"]), ("3,5", ["3", "5", "3"])])
def test_each_worker_sees_one_gpu(monkeypatch, given, seen):
    monkeypatch.setattr(devices.os, "environ", dict(os.environ))
    if given:
        devices.os.environ[devices.VISIBLE] = given
        assert devices.gpus() == 2
    plugin = devices.one_gpu_each(2)
    found = []
    for number in range(3):
        plugin.setup(SimpleNamespace(name=number))
        found.append(devices.os.environ[devices.VISIBLE])
    assert found == seen


def test_the_command_takes_a_zip_grid(write, tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"zip": {"n": [1, 2], "m": [10, 20]}}))
    notebook = write("sum", "n = m = 1", "import nbkv\nnbkv.record(sum=n + m)")
    assert cli.main(["run", str(notebook), "--grid", str(grid), "--workers", "2", "-o", str(tmp_path / "out")]) == 0
    assert [one.records["sum"] for one in report(tmp_path / "out").runs] == [11, 22]
    assert "sum-m=10-n=1" in capsys.readouterr().out
