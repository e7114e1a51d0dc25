"""What options may be: the same for all strategies, whichever kind of number is given."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from nbkv.errors import BadOption
from nbkv.families.options import whole_numbers
from nbkv.registry import strategies as registry
from nbkv.scalars import is_number, is_whole
from nbkv.strategy import parse

OPTIONS = [
    (name, option.name, option.default)
    for name in registry.names()
    for option in fields(registry.get(name))
    if type(option.default) in {int, float}
]


@pytest.mark.parametrize(("name", "option", "default"), OPTIONS)
def test_numbers_of_numpy_become_ours(name, option, default):
    for kind in (np.int64, np.int16) if isinstance(default, int) else (np.float64, np.float32):
        made = registry.get(name)(**{option: kind(default)})
        assert type(getattr(made, option)) is type(default)
        assert parse(made.spec) == made


@pytest.mark.parametrize(("name", "option", "default"), OPTIONS)
@pytest.mark.parametrize("given", [True, False, np.True_, "1", None, float("nan"), [1]], ids=repr)
def test_what_is_no_number_is_refused(name, option, default, given):
    if given is None and "None" in str(registry.get(name).__dataclass_fields__[option].type):
        pytest.skip("an option that may be left open")
    with pytest.raises(BadOption, match=f"{option}=.* is not accepted: {option} is ") as error:
        registry.get(name)(**{option: given})
    assert "\n" not in str(error.value)


def test_whole_numbers_and_others():
    assert all(is_whole(value, 2) for value in (2, np.int8(3)))
    assert not any(is_whole(value, 2) for value in (1, 2.0, True, "2"))
    assert all(is_number(value) for value in (2, 0.5, np.float16(1)))
    assert not any(is_number(value) for value in (True, "2", 1j))
    assert whole_numbers([1, np.int64(2)]) == (1, 2)
    assert whole_numbers(()) == ()
    assert [whole_numbers(value) for value in (3, (1, -1), (True,), "12")] == [None] * 4
