"""What stands between two marks of a page is written, and nothing else of it."""

from __future__ import annotations

import pytest

from nbkv.show.marked import marked


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a\n<begin>\nold\n<end>\nb\n", "a\n<begin>\nnew\n<end>\nb\n"),
        ("<begin><end>", "<begin>\nnew\n<end>"),
        ("a\n<begin>\nno end\n", "a\n<begin>\nno end\n"),
        ("a\n<end>\nno begin\n", "a\n<end>\nno begin\n"),
        ("neither\n", "neither\n"),
        ("", ""),
    ],
)
def test_only_what_stands_between_the_marks_is_written(page, expected):
    assert marked(page, "<begin>", "new", "<end>") == expected
