"""Block decoding against a plain loop that runs the whole sequence in each pass."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("block", [4, 8, 32])
def test_it_equals_a_plain_loop(sdar, words, reference, rule, block):
    session = sdar(block)
    n = 11 if block < 32 else 35
    for length in (1, block - 1, block, block + 1, 2 * block + 1):
        got = session.generate(words(length, seed=length), max_new_tokens=n, unmask=rule, strategy="full")

        assert len(got.prompt_ids) == length
        assert list(got.token_ids) == reference(session.adapter.model, got.prompt_ids, n, block, rule), length
