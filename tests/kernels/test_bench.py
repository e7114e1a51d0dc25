"""The benchmark of the kernels runs anywhere, and the README's table is the one its figures give."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nbkv_kernels import runs_on

ROOT = Path(__file__).parents[2]


def test_every_case_is_checked_against_its_reference(tmp_path):
    if not runs_on(torch.zeros(1)):
        pytest.skip("needs TRITON_INTERPRET=1")
    command = [sys.executable, "kernels/bench/run.py", "--json", str(tmp_path / "found.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())
    kernels = [
        "rotate_gather",
        "row_attention",
        "shared_prefix_attention",
        "merge_states",
        "kv_deviation",
        "project_kv",
    ]
    assert [row["kernel"] for row in found["rows"]] == kernels
    assert not found["timed"]
    assert all("seconds" not in row for row in found["rows"])


def test_the_table_is_the_one_the_figures_give():
    subprocess.run([sys.executable, "kernels/bench/table.py", "--check"], cwd=ROOT, check=True, capture_output=True)
