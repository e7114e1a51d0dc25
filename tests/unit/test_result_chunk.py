from __future__ import annotations

import pytest

from nbkv.result import Chunk


def chunk(**changes):
    return Chunk(
        **({"name": "notes", "text": "word " * 100, "token_ids": (1, 2), "sink": (0,), "model": "f"} | changes)
    )


def test_a_chunk_reads_well():
    made = chunk(notes=("replaces another",))

    assert repr(made).startswith("<Chunk 'notes': 2 tokens, 'word word")
    assert repr(made).endswith("…; replaces another>")
    assert "notes" in made._repr_html_()


@pytest.mark.parametrize(
    ("start", "block", "path"),
    [(9, None, (0, 1, 2)), (1, 4, (0, 1, 2)), (2, 4, (0, 0, 1, 2)), (4, 4, (0, 0, 0, 0, 1, 2)), (13, 4, (0, 1, 2))],
)
def test_it_is_encoded_at_its_place_in_a_block(start, block, path):
    assert chunk().path(start, block) == path


def test_what_is_said_of_a_chunk_makes_no_other_one():
    assert chunk(notes=("a",)) == chunk(notes=("b",))
    assert chunk(sink=(9,)) != chunk()
