"""``match="auto"``: chunks whose token ids a plain text contains are matched there."""

from __future__ import annotations

import pytest

from nbkv.errors import BadOption


def spans(result):
    return [(name, start, stop) for name, start, stop in result.chunks]


def test_chunks_are_found_in_plain_text(session_of, words):
    session = session_of(strategy="epic")
    one, two = words(20, seed=1), words(40, seed=2)
    session.chunk(one, name="one")
    session.chunk(two, name="two")
    text = words(5, seed=3) + two + words(4, seed=4) + one + words(6, seed=5)

    found = session.generate(text, match="auto", max_new_tokens=6, keep=False)

    assert spans(found) == [("two", 6, 46), ("one", 50, 70)]
    assert "matched 2 chunks in the text" in found.notes
    given = [words(5, seed=3), session.chunks["two"], words(4, seed=4), session.chunks["one"], words(6, seed=5)]
    same = session.generate(given, max_new_tokens=6)
    assert (found.prompt_ids, found.token_ids) == (same.prompt_ids, same.token_ids)
    assert found.tokens == same.tokens
    assert found.tokens.reused > 0


def test_nothing_is_matched_unless_asked_for(session_of, words):
    session = session_of(strategy="epic")
    session.chunk(words(20, seed=1), name="one")
    result = session.generate(words(5) + words(20, seed=1) + words(3), max_new_tokens=1)

    assert spans(result) == []
    assert not any("matched" in note for note in result.notes)
    assert result.tokens.reused == 1  # BOS


def test_only_these_two_values(session_of, words):
    session = session_of()
    with pytest.raises(BadOption, match="match='yes' is not accepted"):
        session.generate(words(5), match="yes")
    with pytest.raises(BadOption, match="match is None or 'auto'"):
        session.compare(words(5), ["full"], match=True)


def test_the_longest_wins_and_given_chunks_stay(session_of, words):
    session = session_of(strategy="epic")
    inner, outer = words(18, seed=1), words(10, seed=2) + words(18, seed=1) + words(10, seed=3)
    session.chunk(inner, name="inner")
    session.chunk(outer, name="outer")

    assert spans(session.generate("w1" + outer + " w2", match="auto", max_new_tokens=1)) == [("outer", 2, 40)]
    both = session.generate([session.chunks["inner"], outer, inner], match="auto", max_new_tokens=1)
    assert spans(both) == [("inner", 1, 19), ("outer", 19, 57), ("inner", 57, 75)]


def test_short_broken_and_forgotten_chunks_are_not_found(session_of, words):
    session = session_of(strategy="epic")
    session.chunk(words(15, seed=1), name="short")
    session.chunk(words(30, seed=2), name="long")
    broken = words(30, seed=2).replace(words(30, seed=2).split()[25], "w77")

    assert spans(session.generate(words(3) + words(15, seed=1) + broken, match="auto", max_new_tokens=1)) == []
    whole = words(3) + words(30, seed=2) + words(2)
    assert len(spans(session.generate(whole, match="auto", max_new_tokens=1))) == 1
    session.store.clear()
    forgotten = session.generate(whole, match="auto", max_new_tokens=1)
    assert spans(forgotten) == []
    assert "matched 0 chunks in the text" in forgotten.notes


def test_the_same_chunk_twice(session_of, words):
    session = session_of(strategy="epic")
    text = words(20, seed=1)
    session.chunk(text, name="one")

    assert spans(session.generate(text + text + " w3", match="auto", max_new_tokens=1)) == [
        ("one", 1, 21),
        ("one", 21, 41),
    ]


def test_streams_and_comparisons_match_too(session_of, words):
    session = session_of(strategy="epic")
    session.chunk(words(20, seed=1), name="one")
    text = words(5) + words(20, seed=1) + words(3)
    stream = session.stream(text, match="auto", max_new_tokens=2)
    assert "".join(stream) == stream.result.text
    assert len(spans(stream.result)) == 1
    table = session.compare(text, ["full", "epic"], match="auto", repeat=1, max_new_tokens=2)
    assert [row["reused"] > 0 for row in table.rows] == [False, True]
