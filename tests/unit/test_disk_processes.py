"""Several processes on one disk store: killed in the middle, or writing and evicting the same keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from entries import entry, ids_of
from path_kv import same
from waiting import PATIENCE_S

from nbkv.stores.tiers.disk import DiskTier

HERE = Path(__file__).parent


def start(folder, seed, operations):
    line = [sys.executable, HERE / "store_process.py", folder, str(seed), str(operations)]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})


def check(folder):
    """Open the store and compare all that is in it; return how many entries that is."""
    made = {each.header.key: each for each in (entry(ids_of(i, 80 + i)) for i in range(12))}
    tier = DiskTier(root=folder)
    keys = list(tier.keys())
    for key in keys:
        assert same(tier.get(key).kv(), made[key].kv())
    files = {path.name for path in folder.rglob("*.safetensors") if not path.name.startswith(".")}
    assert files >= {f"{key}.safetensors" for key in keys}
    assert tier.nbytes == sum(made[key].nbytes for key in keys)
    assert not tier.index.abandoned()
    return len(keys)


@pytest.mark.parametrize("after", [3, 20, 77, 150])
def test_a_process_killed_while_it_writes_leaves_nothing_half_visible(tmp_path, after):
    process = start(tmp_path, after, 200)
    for _ in range(after):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    check(tmp_path)
    again = DiskTier(root=tmp_path)
    assert again.put(entry(ids_of(0, 80)))
    assert again.get(entry(ids_of(0, 80)).header.key)


def test_two_processes_write_and_evict_the_same_keys(tmp_path):
    processes = [start(tmp_path, seed, 300) for seed in (1, 2)]
    said = [process.communicate(timeout=PATIENCE_S)[0].splitlines()[-1] for process in processes]
    assert said == ["done", "done"]
    assert [process.returncode for process in processes] == [0, 0]
    assert 0 < check(tmp_path) <= 6


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("how", ["put", "collect"])
def test_a_process_that_dies_between_a_file_and_its_row_leaves_no_row_without_file(tmp_path, monkeypatch, how, after):
    class Killed(BaseException):
        pass

    size = entry(ids_of(0, 80)).nbytes
    tier = DiskTier(root=tmp_path, limit=4 * size)
    for i in range(4):
        assert tier.put(entry(ids_of(i, 80)))
    removed, own = [], tier.index.remove

    def dies(key):
        if len(removed) == after:
            own(key)  # the file is gone, and what was said about it is not yet written
            raise Killed
        removed.append(key)
        own(key)

    tier.index.remove = dies
    tier.limit = tier.limit if how == "put" else size // 2
    work = tier.collect if how == "collect" else lambda: tier.put(entry(ids_of(5, 80 * 3)))
    with pytest.raises(Killed):
        work()
    monkeypatch.setattr("nbkv.stores.tiers.indexed.index._alive_writer", lambda writer: False)
    left = DiskTier(root=tmp_path)
    keys = list(left.keys())
    assert all(left.get(key) is not None for key in keys)
    assert left.nbytes == sum(left.get(key).nbytes for key in keys)
    assert len(keys) < 4
    assert not left.index.abandoned()
