"""Which sink a model's chunks get: the one with which naive reuse is nearer to full, measured once."""

from __future__ import annotations

import dataclasses

import pytest

import nbkv
from nbkv.models.identity.verdicts import Verdicts
from nbkv.session.encoding import sink_choice
from nbkv.session.encoding.chunks import _encoded
from nbkv.session.encoding.sink_choice import NaiveReuse, better_sink, can_measure
from nbkv.tasks import ledger


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as opened:
        yield opened


@pytest.fixture
def ctx(session):
    return dataclasses.replace(session._open().for_request(), verdicts=Verdicts())


@pytest.fixture
def known_words(monkeypatch):
    """Neutral prompts in words that the bundled reader knows."""
    items = ledger(seed=77, n=3, chunks=3, distance=1)
    monkeypatch.setattr(sink_choice, "_PROMPTS", tuple((*item.chunks, item.question) for item in items))


def test_a_tokenizer_without_the_words_measures_nothing(ctx):
    assert not can_measure(ctx)
    assert better_sink(ctx, "auto", "context", _encoded) == "auto"


def test_the_neutral_texts_are_read_once_a_model(ctx, monkeypatch):
    better_sink(ctx, "auto", "context", _encoded)
    monkeypatch.setattr(sink_choice, "can_measure", None)
    assert better_sink(ctx, "auto", "context", _encoded) == "auto"


def test_the_nearer_sink_is_chosen(ctx, known_words, monkeypatch):
    assert can_measure(ctx)
    measured = {kind: sum(sink_choice.distances(ctx, kind, _encoded)) for kind in ("bos", "primer")}
    best = min(measured, key=measured.get)
    other = max(measured, key=measured.get)
    monkeypatch.setattr(sink_choice, "_WORTH", 1.0)

    assert measured[best] < measured[other]
    assert better_sink(ctx, other, best, _encoded) == best
    assert better_sink(ctx, best, other, _encoded) == best


def test_a_longer_sink_must_be_worth_it(ctx, known_words, monkeypatch):
    monkeypatch.setattr(sink_choice, "_WORTH", 0.0)
    assert better_sink(ctx, "bos", "primer", _encoded) == "bos"


def test_it_is_measured_once_and_keeps_nothing(ctx, session, known_words, monkeypatch):
    before = len(session.store.ls())
    chosen = better_sink(ctx, "bos", "primer", _encoded)
    monkeypatch.setattr(sink_choice, "distances", None)

    assert better_sink(ctx, "bos", "primer", _encoded) == chosen
    assert len(session.store.ls()) == before


def test_auto_takes_the_choice(session, monkeypatch):
    monkeypatch.setattr("nbkv.session.encoding.chunks.better_sink", lambda *_: "dummy")
    assert len(session.chunk("The lamp was red .", name="a", sink="auto").sink) == 4
    assert session.chunk("The lamp was red .", name="b", sink="bos").sink == (session._open().codec.bos_ids[0],)


def test_naive_reuse_runs_no_row_again(session):
    prompt = [session.chunk("The lamp was red . ", name="c"), session.chunk("It rained . ", name="d"), "What was red ?"]
    result = session.generate(prompt, strategy=NaiveReuse(), max_new_tokens=1)
    assert result.tokens.recomputed <= 1
    assert result.strategy == "naive"
