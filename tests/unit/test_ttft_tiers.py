"""``ttft.tiers``: figures only of tiers that served the whole prefix and gave the reference's answer."""

from __future__ import annotations

import shutil

import pytest

from nbkv import bench
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.head import Damaged


def rows_of(**options):
    given = {"shape": "mini", "context": 70, "rounds": 1} | options
    return {row.strategy: row for row in bench.run(["ttft.tiers"], **given)}


def test_each_tier_has_its_floor_and_says_what_was_hidden():
    rows = rows_of()
    assert set(rows) == {"memory", "host", "disk", "redis"}
    for name in ("host", "disk", "redis") if shutil.which("redis-server") else ("host", "disk"):
        assert rows[name].ours > 0
        assert rows[name].floor >= rows["memory"].ours  # the longer of loading and of computing
        assert rows[name].baseline == rows["memory"].baseline > 0
        assert "loading alone" in rows[name].notes[0]
        assert "of 4 layers were there before they were needed" in rows[name].notes[1]
    assert rows["memory"].floor is None
    assert rows["redis"].ours or rows["redis"].missing


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_tier_that_gives_other_kv_has_no_figures(monkeypatch, layer):
    true = Entry.layer

    def other(entry, number, *_into):
        keys, values = true(entry, number)
        return (-keys, values.flip(-2) * 9) if number == layer else (keys, values)

    monkeypatch.setattr(Entry, "layer", other)
    monkeypatch.setattr("shutil.which", lambda _: None)
    rows = rows_of()
    assert rows["host"].refused
    assert rows["disk"].refused
    assert rows["host"].ours is rows["disk"].ours is None
    assert rows["memory"].ours > 0


def test_a_tier_that_loses_a_layer_has_no_figures(monkeypatch):
    def lost(*_):
        raise Damaged

    monkeypatch.setattr(Entry, "layer", lost)
    monkeypatch.setattr("shutil.which", lambda _: None)
    rows = rows_of()
    assert rows["disk"].refused == "0 of 70 stored tokens were reused"
    assert rows["redis"].missing == "redis-server is not installed"
