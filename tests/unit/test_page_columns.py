"""The columns of written tables: a type that depends on the values only, a unit, and what each row was made with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nbkv.sweep.page.columns import described, unit_of, written
from nbkv.sweep.runs import Run, Sweep

HERE, NAN = Path("out"), float("nan")
MACHINE = {"torch": "2.13", "commit": "abc", "processor": "a processor, 8 cores"}


def sweep(*records, **more):
    runs = [
        Run(path=HERE / f"{at}.ipynb", notebook="n.ipynb", records=each, machine=MACHINE, **more)
        for at, each in enumerate(records)
    ]
    return Sweep(HERE, tuple(runs))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "Int64"),
        ([1, None], "Int64"),
        ([1, 0.5], "float64"),
        ([NAN, 2.0], "float64"),
        ([True, None], "boolean"),
        ([True, 1], "string"),
        (["a", None], "string"),
        (["a", 1], "string"),
        ([2**70, 1], "string"),
        ([None, None], "string"),
        ([[1, 2], [3]], "string"),
    ],
)
def test_a_column_has_one_type(values, kind):
    frame = written(sweep(*({"value": value} for value in values)))
    assert str(frame["value"].dtype) == kind
    assert [*frame["value"].isna()] == [value is None or value is NAN for value in values]


@pytest.mark.parametrize(("value", "kind"), [(3, "Int64"), (True, "boolean"), ("a", "string"), (0.5, "float64")])
def test_a_run_without_a_value_changes_no_type(value, kind):
    for rows in ([{"value": value}], [{"value": value}, {}], [{}, {"value": value}]):
        frame = written(sweep(*rows))
        assert str(frame["value"].dtype) == kind
        assert frame["value"].dropna().tolist() == [value]


def test_types_come_back_from_a_file(tmp_path):
    frame = written(sweep({"n": 3, "fine": True, "kl": 0.5, "of": {"a": 1}, "list": [1, "b"]}, {"n": 4}))
    frame.to_csv(tmp_path / "t.csv", index=False)
    kinds = {row.column: row.type for row in described(frame, {}).itertuples()}
    again = pd.read_csv(tmp_path / "t.csv", dtype=kinds)
    recorded = ["n", "fine", "kl", "of a", "list"]
    pd.testing.assert_frame_equal(again[recorded], frame[recorded])
    assert again["list"][0] == '[1, "b"]'
    assert again["of a"].tolist()[:1] == [1]


def test_rows_say_what_they_were_made_with():
    frame = written(sweep({"kl": 1.0}, seeds={"seed": 7}))
    (row,) = frame.to_dict("records")
    assert (row["machine.commit"], row["machine.torch"], row["seed"]) == ("abc", "2.13", 7)


def test_a_given_seed_is_not_the_notebooks_own():
    (given,) = written(sweep({}, seeds={"seed": 7}, parameters={"seed": 8})).to_dict("records")
    assert given["seed"] == 8
    (apart,) = written(sweep({"seed": "recorded"}, seeds={"seed": 7})).to_dict("records")
    assert (apart["seed"], apart["parameter.seed"]) == ("recorded", 7)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ttft_s", "s"),
        ("duration_s", "s"),
        ("seconds full", "s"),
        ("peak_bytes", "bytes"),
        ("tokens_per_s", "tokens/s"),
        ("new_tokens_per_s 4", "tokens/s"),
        ("kl", "nats"),
        ("whole_kl", "nats"),
        ("record.kl", "nats"),
        ("room", "m"),
        ("room b", "m"),
        ("odd_s", "Å"),
        ("right", ""),
        ("runs", ""),
        ("klein", ""),
    ],
)
def test_units_are_said_or_stand_in_the_name(name, unit):
    assert unit_of(name, {"room": "m", "odd_s": "Å"}) == unit
