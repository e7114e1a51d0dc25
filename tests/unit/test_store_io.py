from __future__ import annotations

import shutil

import pytest

from nbkv import bench
from nbkv.stores.tiers.entry import Entry


def test_putting_and_getting_is_measured_against_the_same_bytes_without_a_tier():
    rows = {row.strategy: row for row in bench.run(["store.io"], context=8, rounds=1)}
    tiers = ["disk", "redis"] if shutil.which("redis-server") else ["disk"]
    for tier in tiers:
        for verb in ("put", "get"):
            row = rows[f"{verb} on {tier}"]
            assert row.ours > 0
            assert row.baseline > 0
            assert "GB/s against" in row.notes[0]
    assert len(tiers) == 2 or rows["redis"].missing


@pytest.mark.parametrize("layer", [0, 7, 27])
def test_what_comes_back_wrong_has_no_figures(monkeypatch, layer):
    true = Entry.layer

    def wrong(self, number, *_into):
        keys, values = true(self, number)
        return (keys + 1, values) if number == layer else (keys, values)

    monkeypatch.setattr(Entry, "layer", wrong)
    monkeypatch.setattr("shutil.which", lambda _: None)
    disk, _ = bench.run(["store.io"], context=4, rounds=1)
    assert "not what was put" in disk.refused
    assert disk.ours is None
