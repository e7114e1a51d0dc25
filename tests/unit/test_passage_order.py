"""Passages whose order is free: longer shared prefixes, nothing lost, nothing else touched, and it is said."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.prompts.passage_order import reordered
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk

A, B, C, D = (
    Chunk(name=name, text=name, token_ids=tuple(range(10 * at, 10 * at + 5)), sink=(), model="")
    for at, name in enumerate("abcd", start=1)
)
HEAD, SEP, ASKED = (1, 2), (7,), (90, 91)


def prompt(*parts, head=HEAD, between=(), tail=ASKED):
    ids, spans = list(head), []
    for number, chunk in enumerate(parts):
        ids += between if number else ()
        spans.append((chunk, len(ids), len(ids) + len(chunk)))
        ids += chunk.token_ids
    return Prompt((*ids, *tail), tuple(spans))


def nothing(ids):
    return 0


def stored(*known):
    """Return how many first ids any of the prompts ``known`` begins with."""

    def holds(ids):
        return max(
            (
                next(
                    (n for n, (x, y) in enumerate(zip(ids, each.ids, strict=False)) if x != y),
                    min(len(ids), len(each.ids)),
                )
                for each in known
            ),
            default=0,
        )

    return holds


def names(found):
    return ["".join(chunk.name for chunk, _, _ in each.chunks) for each in found]


@pytest.mark.parametrize("between", [(), SEP])
def test_ids_and_spans_agree_and_only_passages_move(between):
    (found,) = reordered([prompt(A, B, C, between=between)], stored(prompt(C, A, between=between, tail=())))
    assert names([found]) == ["cab"]
    assert found.ids == prompt(C, A, B, between=between).ids
    assert found.chunks == prompt(C, A, B, between=between).chunks


@pytest.mark.parametrize(
    ("asked", "known", "expected"),
    [
        ("abc", ("cb",), "cba"),
        ("abc", ("b", "ca"), "cab"),  # what goes furthest first
        ("abcd", ("dab",), "dabc"),
        ("abc", ("dab",), "abc"),  # a passage that is not asked for stands in the way
        ("abc", (), "abc"),
    ],
)
def test_one_prompt_follows_what_is_stored(asked, known, expected):
    by_name = {chunk.name: chunk for chunk in (A, B, C, D)}
    made = [prompt(*(by_name[name] for name in some), tail=()) for some in known]
    assert names(reordered([prompt(*(by_name[name] for name in asked))], stored(*made))) == [expected]


def test_prompts_are_aligned_with_each_other():
    found = reordered([prompt(A, B), prompt(C, B, A), prompt(D, A), prompt(B, C, A)], nothing)
    assert names(found) == ["ab", "abc", "ad", "abc"]


def test_prompts_that_begin_otherwise_are_not_aligned():
    found = reordered([prompt(A, B), prompt(B, A, head=(3,)), prompt(B, A, between=SEP)], nothing)
    assert names(found) == ["ab", "ba", "ba"]


def test_what_comes_twice_is_said_once():
    (found,) = reordered([prompt(B, A, B, between=SEP)], nothing)
    assert found.ids == prompt(B, A, between=SEP).ids
    assert "1 that came twice left out" in found.notes[0]


@pytest.mark.parametrize("kept", [Prompt((1, 2, 3)), prompt(A), Prompt(prompt(A).ids + prompt(B).ids, ())])
def test_prompts_without_passages_stay_as_they_are(kept):
    assert reordered([kept], stored(prompt(B))) == [kept]


def test_text_between_passages_keeps_them_apart():
    ids = (*A.token_ids, 60, 61, 62, *B.token_ids, 63, 64, *C.token_ids)
    apart = Prompt(ids, ((A, 0, 5), (B, 8, 13), (C, 15, 20)))
    assert reordered([apart], stored(Prompt(C.token_ids))) == [apart]


def test_only_those_that_stand_together_move():
    ids = (*A.token_ids, *B.token_ids, 60, 61, *C.token_ids, 99)
    mixed = Prompt(ids, ((A, 0, 5), (B, 5, 10), (C, 12, 17)))
    (found,) = reordered([mixed], stored(Prompt(B.token_ids)))
    assert found.ids == (*B.token_ids, *A.token_ids, 60, 61, *C.token_ids, 99)
    assert [(chunk.name, start) for chunk, start, _ in found.chunks] == [("b", 0), ("a", 5), ("c", 12)]


@pytest.mark.parametrize("how", ["generate", "stream"])
def test_a_session_reuses_more_and_says_how_passages_stand(session_of, words, how):
    session = session_of(strategy="prefix")
    a, b, c = (session.chunk(words(20, seed=seed), name=name, sink="bos") for seed, name in enumerate("abc"))

    def ask(parts, **options):
        if how == "generate":
            return session.generate(parts, max_new_tokens=5, **options)
        stream = session.stream(parts, max_new_tokens=5, **options)
        assert "".join(stream)
        return stream.result

    ask([b, a, words(3, seed=9)])
    plain = ask([a, b, c, words(3, seed=8)], strategy="prefix")
    moved = ask([c, a, b, words(3, seed=7)], order="reuse")
    assert moved.tokens.reused >= 61 > plain.tokens.reused
    assert any("passages stand as" in note and "(given: c, a, b)" in note for note in moved.notes)
    assert [name for name, _, _ in moved.chunks] in (["a", "b", "c"], ["b", "a", "c"])
    same = [{"a": a, "b": b, "c": c}[name] for name, _, _ in moved.chunks]
    assert session.generate([*same, words(3, seed=7)], strategy="full", max_new_tokens=5).token_ids == moved.token_ids


def test_a_batch_shares_more(session_of, words):
    session = session_of()
    chunks = [session.chunk(words(25, seed=seed), name=f"n{seed}", sink="bos") for seed in range(4)]
    asked = [
        [chunks[at] for at in order] + [words(3, seed=9 + at)]
        for at, order in enumerate([(0, 1, 2), (2, 0), (1, 2, 0), (3, 2)])
    ]
    plain = nbkv.load(session.adapter.model, tokenizer=session.tokenizer)
    with plain:
        given = [[*map(plain_chunk(plain), parts)] for parts in asked]
        before = plain.generate_batch(given, max_new_tokens=3, progress=False)
    after = session.generate_batch(asked, order="reuse", max_new_tokens=3, progress=False)
    assert sum(result.tokens.fresh for result in after) < sum(result.tokens.fresh for result in before) - 25


def plain_chunk(session):
    return lambda part: part if isinstance(part, str) else session.chunk(part.text, name=part.name, sink="bos")


@pytest.mark.parametrize("order", ["best", 1, "Reuse"])
def test_unknown_orders_are_refused(session_of, order):
    with pytest.raises(BadOption, match="order is None"):
        session_of().generate("w1", order=order)
