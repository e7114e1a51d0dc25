"""Rows chosen without a look at the model: as many as the budget says, and the ones they say."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.result import Provenance
from nbkv.studies.baselines import LexicalRows, RandomRows

TEXTS = [
    "Anna sold a lamp . It rained all day . The street was quiet . ",
    "Boris bought a boat . The market was open . The birds sat near the gate . ",
]


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as opened:
        yield opened


@pytest.fixture(scope="module")
def prompt(session):
    return [*(session.chunk(text) for text in TEXTS), "Which boat was it ?"]


def recomputed(result):
    return [
        piece
        for piece, source in zip(result.prompt_pieces, result.provenance, strict=True)
        if source == Provenance.RECOMPUTED
    ]


@pytest.mark.parametrize("kind", [RandomRows, LexicalRows])
def test_budgets(session, prompt, kind):
    none, some, every = (
        session.generate(prompt, strategy=kind(budget=budget), max_new_tokens=1) for budget in (0.0, 0.3, 1.0)
    )
    full = session.generate(prompt, strategy="full", max_new_tokens=1)

    assert none.tokens.recomputed <= 1  # the last row
    assert 0 < some.tokens.recomputed <= 0.3 * some.tokens.prompt + 1
    assert every.token_ids == full.token_ids
    assert not (every.provenance == Provenance.CHUNK).any()


def test_random_rows_stay_the_same_for_a_prompt(session, prompt):
    first, again = (session.generate(prompt, strategy=RandomRows(budget=0.3), max_new_tokens=1) for _ in range(2))
    assert (first.provenance == again.provenance).all()


def test_lexical_takes_the_sentence_with_the_rare_word(session, prompt):
    result = session.generate(prompt, strategy=LexicalRows(budget=0.25), max_new_tokens=1)
    said = "".join(recomputed(result))

    assert "boat" in said
    assert "Boris" in said
    assert "lamp" not in said


def test_names():
    assert repr(RandomRows(budget=0.1)) == "random(budget=0.1)"
    assert repr(LexicalRows()) == "lexical(budget=0.15)"
