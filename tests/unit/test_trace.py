from __future__ import annotations

import pytest

from nbkv.tasks import trace


@pytest.mark.parametrize(("hops", "chains"), [(1, 1), (3, 2), (7, 4)])
def test_a_chain_goes_on_from_chunk_to_chunk(hops, chains):
    for item in trace(seed=2, n=10, hops=hops, chains=chains):
        text = "".join(item.chunks)
        value = item.question.removesuffix("?").split()[-1]
        assert text.count("has the value") == chains
        assert text.count("same value") == chains * hops
        assert f"The word {item.answers[0]} has the value {value}." in text
        for before, word in zip(item.answers, item.answers[1:], strict=False):
            assert f"The word {word} has the same value that the word {before} has." in text
        assert item.kind == f"{hops}hop"
        assert item.hops == sorted(set(item.hops))
        assert item.distance == item.hops[-1] - item.hops[0]
        for number, (word, evidence) in enumerate(zip(item.answers, item.oracle, strict=True)):
            (asked,) = evidence.asked
            assert item.chunks[asked.chunk][asked.start :].startswith(f"The word {word} has")
            assert [place.chunk for place in evidence.giving] == item.hops[:number]
