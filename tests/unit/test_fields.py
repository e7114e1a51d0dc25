r"""``{{ name }}`` in a text: what is a name, what is left alone, and which values can stand there."""

from __future__ import annotations

import numpy as np
import pytest

from nbkv.errors import BadPrompt
from nbkv.prompts.fields import Field, fields_of, joined, values
from nbkv.result import Chunk

CHUNK = Chunk(name="c", text="w1", token_ids=(4,), sink=(), model="m")


@pytest.mark.parametrize(
    ("text", "names", "rest"),
    [
        ("a {{x}} b {{ y }}", ["x", "y"], "a  b "),
        (r"\{{x}} {{x}}", ["x"], "{{x}} "),
        ("{x} {{}} {{a b}} {{3}} {{x.y}}", [], "{x} {{}} {{a b}} {{3}} {{x.y}}"),
        ("{{{x}}} {{x", ["x"], "{} {{x"),
    ],
)
def test_names_are_found_and_other_braces_left_alone(text, names, rest):
    pieces = list(fields_of(text))

    assert [piece for piece in pieces if isinstance(piece, Field)] == names
    assert "".join(piece for piece in pieces if not isinstance(piece, Field)) == rest


def test_what_a_value_gives():
    assert list(values("x", ["w1", CHUNK, 3, np.float32(0.5), True])) == ["w1", CHUNK, "3", "0.5", "True"]
    assert list(joined(["a", "", "b", CHUNK, "", CHUNK, "c"])) == ["ab", CHUNK, CHUNK, "c"]


@pytest.mark.parametrize("value", [None, {"a": 1}, object(), [["w1"]], b"w1"])
def test_other_values_are_refused_by_name(value):
    with pytest.raises(BadPrompt, match=r"\{\{ x \}\}.*accepted"):
        list(values("x", value))
