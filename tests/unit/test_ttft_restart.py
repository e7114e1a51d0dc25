"""``ttft.restart``: a figure only of processes that found the whole prefix on disk and gave the reference's answer."""

from __future__ import annotations

import json
import subprocess

import pytest

from nbkv import bench


def rows_of(**options):
    return bench.run(["ttft.restart"], **({"shape": "mini", "context": 40, "rounds": 1} | options))


def test_another_process_finds_what_the_first_one_left():
    (row,) = rows_of()
    assert not row.refused
    assert row.ours > 0
    assert row.baseline > 0
    assert "loading alone" in row.notes[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tokens": [1, 2, 3, 4]}, "where the reference gives"),
        ({"reused": 7}, "7 of 40 stored"),
        ({"reused": 0}, "0 of"),
    ],
)
def test_a_process_that_answers_otherwise_or_reuses_less_has_no_figure(monkeypatch, change, why):
    def process(*_args, **_options):
        told = dict.fromkeys(("first", "memory", "load", "full"), 0.1) | {"reused": 40, "tokens": [0] * 4}
        return subprocess.CompletedProcess([], 0, json.dumps(told | change), "")

    monkeypatch.setattr("nbkv.bench.ttft_restart.subprocess.run", process)
    (row,) = rows_of()
    assert why in row.refused
    assert row.ours is row.floor is None
