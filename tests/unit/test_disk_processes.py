"""Several processes on one disk store: killed in the middle, or writing and evicting the same keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from entries import entry, ids_of
from path_kv import same

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
    said = [process.communicate(timeout=200)[0].splitlines()[-1] for process in processes]
    assert said == ["done", "done"]
    assert [process.returncode for process in processes] == [0, 0]
    assert 0 < check(tmp_path) <= 6
