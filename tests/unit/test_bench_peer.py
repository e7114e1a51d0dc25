from __future__ import annotations

import pytest

from nbkv.bench.agreement import Reference
from nbkv.bench.measure import BenchRow
from nbkv.bench.peer import Missing, kvboost
from nbkv.bench.ttft_prefix import _check_peer

ROW = BenchRow(name="ttft.prefix", regime={}, against="peer")
WANTED = Reference(tokens=(1, 2, 3), gaps=(0.5, 0.5, 0.5), tolerance=0.01)


def answer(*tokens):
    return {"tokens": list(tokens), "ttft_s": 0.5, "own_ttft_s": 0.2, "reused": 0.98}


def test_a_wrong_first_token_is_not_measured():
    with pytest.raises(Missing, match=r"wrong: token 0 is 7 where the reference gives 1 \(it took 500.0 ms"):
        _check_peer(answer(7, 2, 3), WANTED, ROW)


def test_a_later_difference_is_said():
    assert len(_check_peer(answer(1, 2, 3), WANTED, ROW).notes) == 1
    assert "token 1 is 9" in _check_peer(answer(1, 9, 3), WANTED, ROW).notes[1]


def test_a_peer_that_cannot_be_installed_is_missing(monkeypatch):
    monkeypatch.setattr("nbkv.bench.peer.PEER", "/no/such/package-1.0.whl")
    with pytest.raises(Missing, match="pip could not install"), kvboost("mini", "float32", 1):
        pass
