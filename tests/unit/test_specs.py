from __future__ import annotations

import pytest

from nbkv.specs import read

UNREADABLE = [
    *(3, None, "", "2", "two words", "f(", "f(a=)", "f(x)", "f(1)(2)", "f(1) + g(2)", "f(__import__('os'))"),
    *("f(**{})", "f(a=1, a=2)", "f(1)\ng(2)"),
]


@pytest.mark.parametrize(
    ("text", "name", "values", "options"),
    [
        ("full", "full", [], {}),
        ("ids()", "ids", [], {}),
        (" static ( steps=4 ) ", "static", [], {"steps": 4}),
        ("latent(16, 4)", "latent", [16, 4], {}),
        ("my-own(0.2, at=(1, -2), sink='a(b)')", "my-own", [0.2], {"at": (1, -2), "sink": "a(b)"}),
    ],
)
def test_a_name_its_values_and_its_options(text, name, values, options):
    assert read(text) == (name, values, options)


@pytest.mark.parametrize("text", UNREADABLE)
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match="cannot read the options of") as error:
        read(text)
    assert "\n" not in str(error.value)
