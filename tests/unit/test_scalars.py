from __future__ import annotations

from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np
import pytest

from nbkv.scalars import is_number, is_whole, kind_of, plain


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.int32(3)], ids=lambda value: type(value).__name__)
def test_whole_numbers_are_pythons_and_numpys(value):
    assert is_whole(value, 3)
    assert not is_whole(value, 4)
    assert is_number(value)
    assert type(plain(value)) is int


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=lambda value: type(value).__name__
)
def test_real_numbers_are_pythons_and_numpys(value):
    assert is_number(value)
    assert not is_whole(value)
    assert plain(value) == 0.5
    assert type(plain(value)) is float


@pytest.mark.parametrize("value", [True, np.True_, "3", None, [3], 3j], ids=repr)
def test_nothing_else_is_a_number(value):
    assert not is_whole(value)
    assert not is_number(value)
    assert plain(value) is value


def test_a_message_names_types_with_their_article():
    assert [kind_of(value) for value in (None, 3, "x", PurePosixPath("a"))] == [
        "None",
        "an int",
        "a str",
        "a PurePosixPath",
    ]
