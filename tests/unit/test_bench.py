from __future__ import annotations

import json

import pytest

from nbkv import bench, cli
from nbkv.bench.measure import Candidate, Row, interleaved, table
from nbkv.bench.same import Reference
from nbkv.errors import BadOption, UnknownName

KEYS = {"name", "regime", "baseline", "ours", "ratio", "floor", "floor_ratio"}


def test_candidates_take_turns_after_a_warm_up():
    order = []

    def work(name):
        return lambda ready: order.append((name, ready))

    seconds = interleaved([Candidate("a", work("a"), lambda: "ready"), Candidate("b", work("b"))], rounds=3)
    assert order == [("a", "ready"), ("b", None)] * 4
    assert set(seconds) == {"a", "b"}


def test_the_median_is_of_what_the_work_tells_without_the_warm_up():
    figures = iter([100.0, 3.0, 1.0, 2.0])
    assert interleaved([Candidate("a", lambda _: next(figures))], rounds=3) == {"a": 2.0}


def test_rows_give_ratios_and_json():
    row = Row(name="x", regime={"shape": "mini"}, against="theirs", baseline=2.0, ours=1.0, floor=0.8)
    assert row.to_dict().keys() >= KEYS
    assert row.to_dict()["ratio"] == 0.5
    assert row.to_dict()["floor_ratio"] == pytest.approx(1.25)
    assert table([row]).splitlines() == [
        "# shape mini",
        "x            1000.0 ms = 0.500 x theirs (2000.0 ms), 1.25 x the floor of 800.0 ms",
    ]


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ([1, 2, 3, 4], ""),
        ([1, 2, 9, 9], ""),  # the third token is a toss-up: from there on anything may differ
        ([1, 2], ""),
        ([1, 5, 3, 4], "token 1 is 5 where the reference gives 2"),
        ([1], "1 tokens where the reference gives 2"),
    ],
)
def test_answers_agree_as_far_as_the_reference_decides(tokens, why):
    assert Reference(tokens=(1, 2, 3, 4), gaps=(0.5, 0.3, 0.001, 0.5), tolerance=0.01).differs(tokens) == why


def test_an_undecided_reference_compares_nothing():
    assert "nothing to compare" in Reference(tokens=(1,), gaps=(0.0,), tolerance=0.01).differs([1])


def test_unknown_names_and_values_out_of_range():
    with pytest.raises(UnknownName, match=r"did you mean 'ttft.prefix'\?"):
        bench.run(["ttft.prefx"])
    with pytest.raises(BadOption, match="rounds=0"):
        bench.run(["overhead"], rounds=0)
    with pytest.raises(UnknownName, match="unknown shape 'huge'"):
        bench.run(["overhead"], shape="huge")


@pytest.mark.parametrize(("name", "n_rows"), [("ttft.prefix", 2), ("decode.tpot", 1), ("overhead", 1)])
def test_a_small_slice_of_each_measures(name, n_rows):
    rows = bench.run([name], shape="mini", context=64, rounds=1, peers=False)
    assert len(rows) >= n_rows
    for row in rows[:n_rows]:
        assert not row.refused
        assert row.ours > 0
        assert row.baseline > 0
        assert row.floor > 0
        assert row.regime.keys() >= {"shape", "dtype", "device", "threads", "batch"}


@pytest.mark.parametrize("name", ["ttft.prefix", "decode.tpot", "overhead"])
def test_other_outputs_are_refused_not_reported(name, monkeypatch, tmp_path, capsys):
    def wrong(self, logits):
        return int(logits.argmin())

    monkeypatch.setattr("nbkv.models.decode.Chooser.choose", wrong)
    path = tmp_path / "rows.json"
    code = cli.main(
        ["bench", name, "--shape", "mini", "--context", "64", "--rounds", "1", "--no-peers", "--json", str(path)]
    )
    (row,) = json.loads(path.read_text())
    assert code == 1
    assert row["ours"] is row["ratio"] is row["baseline"] is None
    assert row["refused"]
    assert "refused" in capsys.readouterr().out


def test_imports_are_measured_and_load_no_torch(capsys, tmp_path):
    path = tmp_path / "rows.json"
    assert cli.main(["bench", "import", "--rounds", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["against"] for row in rows] == ["bare python", "bare IPython"]
    assert all(row["ours"] > 0 for row in rows)
