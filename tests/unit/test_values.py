"""Values come out of a notebook as they went in."""

import datetime as dt
import json
import math
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nbkv.errors import BadOption
from nbkv.sweep.values import literal, packed, plain, unpacked

Level = IntEnum("Level", "LOW HIGH")
GIVEN = [
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.arange(3), [0, 1, 2]),
    (np.array([[1.5, math.inf]]), [[1.5, math.inf]]),
    (torch.tensor(2), 2),
    (torch.ones(2), [1.0, 1.0]),
    (pd.Series([1, 2]), [1, 2]),
    (pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
    (Path("a") / "b", "a/b"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),  # noqa: DTZ001  (any datetime)
    (range(3), [0, 1, 2]),
    ((1, (np.int8(2), "x")), (1, (2, "x"))),
    ({"a": (1,), 2: None}, {"a": (1,), 2: None}),
    ({"nbkv": "tuple", "value": [1]}, {"nbkv": "tuple", "value": [1]}),
    (Level.HIGH, 2),
    ("a\n'\"\\ é {x}", "a\n'\"\\ é {x}"),
    (-math.inf, -math.inf),
    ([], []),
    ((), ()),
]


@pytest.mark.parametrize(("given", "wanted"), GIVEN, ids=map(str, range(len(GIVEN))))
def test_values_become_plain_and_stay_as_they_are(given, wanted):
    made = plain("x", given)
    assert made == wanted
    assert type(made) is type(wanted)
    for again in (eval(literal(made)), unpacked(json.loads(json.dumps(packed(made), allow_nan=False)))):  # noqa: S307
        assert again == wanted
        assert type(again) is type(wanted)
        assert repr(again) == repr(wanted)


@pytest.mark.parametrize(
    "value", [math.nan, np.float64("nan"), [math.nan], {"a": (math.nan,)}], ids=["float", "numpy", "list", "dict"]
)
def test_nan_stays_a_number(value):
    made = plain("x", value)
    again = unpacked(json.loads(json.dumps(packed(made), allow_nan=False)))
    assert repr(again) == repr(made) == repr(eval(literal(made)))  # noqa: S307
    assert "nan" in repr(made)


@pytest.mark.parametrize("value", [object(), {1}, b"", Fraction(1, 3), 1j, print, type, [object()], {"a": object()}])
def test_other_values_are_refused_by_name_and_type(value):
    with pytest.raises(BadOption, match=r"^x is an? \w+ \(accepted: a number, a text"):
        plain("x", value)
