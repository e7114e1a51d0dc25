from __future__ import annotations

from nbkv.result import Provenance


def test_whole_sentences_are_recomputed(session_of, words):
    session = session_of(strategy="passage(budget=0.5, longest=5)")
    text = " .".join(words(4, seed=seed) for seed in range(8)) + " ."
    chunk = session.chunk(text, name="c")
    result = session.generate([words(3), chunk, words(4, seed=9)], max_new_tokens=1)
    ((_, start, stop),) = result.chunks
    again = (result.provenance[start:stop] == Provenance.RECOMPUTED).reshape(-1, 5)

    assert again.any()
    assert all(sentence.all() or not sentence.any() for sentence in again)
