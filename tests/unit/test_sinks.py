from __future__ import annotations

import pytest

import nbkv
from nbkv.models.identity.verdicts import Verdicts
from nbkv.result import Provenance
from nbkv.session.encoding import sinks


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as session:
        yield session


def test_kinds_of_sinks(session_of, words):
    session = session_of("llama")
    kinds = {kind: session.chunk(words(9), name=kind, sink=kind).sink for kind in sinks.KINDS}

    assert kinds["bos"] == (0,)
    assert kinds["none"] == ()
    assert kinds["dummy"] == (0,) * 4
    assert kinds["primer"][0] == 0
    assert len(kinds["primer"]) > 1
    assert kinds["auto"] == (0,)  # its words are unknown to this tokenizer, so there is nothing to measure


def test_other_kinds_are_refused(session_of, words):
    with pytest.raises(nbkv.BadOption, match="one of auto, bos, none, dummy, primer"):
        session_of("llama").chunk(words(9), sink="much")


def test_without_a_bos_one_token_stands_for_it(model_of, make_tokenizer, words):
    with nbkv.load(model_of("llama"), tokenizer=make_tokenizer(bos=False)) as session:
        assert len(session.chunk(words(9), name="a", sink="auto").sink) == 1
        with pytest.raises(nbkv.BadOption, match="adds a BOS"):
            session.chunk(words(9), name="b", sink="bos")


def test_the_measurement_asks_for_a_primer_where_it_helps(session):
    ctx = session._open()
    behind_bos, chosen = (
        sinks.flatness(ctx.codec, ctx.adapter, sentences)
        for sentences in (0, sinks.primer_length(ctx.codec, ctx.adapter, Verdicts()))
    )

    assert behind_bos.ratio > 1.5
    assert chosen.ratio < 0.75 * behind_bos.ratio
    assert chosen.sentences >= 1


def test_it_is_measured_once(session, monkeypatch):
    ctx, verdicts = session._open(), Verdicts()
    length = sinks.primer_length(ctx.codec, ctx.adapter, verdicts)
    monkeypatch.setattr(sinks, "flatness", None)

    assert sinks.primer_length(ctx.codec, ctx.adapter, verdicts) == length


def test_an_auto_chunk_is_a_prefix_too(session):
    item = nbkv.tasks.ledger(seed=3, n=1)[0]
    chunk = session.chunk(item.chunks[0], name="first")
    result = session.generate([chunk, item.question], strategy="prefix", max_new_tokens=1)

    assert len(chunk.sink) > 1
    assert result.tokens.reused == len(chunk) + 1


TEMPLATE = (
    "{% if messages[0].role != 'system' %}<s> w1 w2 w3 </s> {% endif %}"
    "{% for message in messages %}<s> {{ message.content }} </s> {% endfor %}"
)


def test_a_context_begins_as_a_chat_prompt_does(model_of, make_tokenizer, words):
    with nbkv.load(model_of("llama"), tokenizer=make_tokenizer(template=TEMPLATE)) as session:
        one, two = (session.chunk(words(9, seed=seed), name=str(seed), sink="context") for seed in (1, 2))
        asked = [{"role": "user", "content": [one, two, words(5)]}]
        result = session.generate(asked, strategy="influence(budget=0)", max_new_tokens=1)

        (_, start, stop), _ = result.chunks
        opening = result.prompt_ids[:start]
        assert one.sink[:start] == opening
        assert len(one.sink) > len(opening) > 1
        # behind that opening alone the first chunk is an exact prefix, the second one is not
        assert (result.provenance[:stop] == Provenance.PREFIX).all()
        assert (result.provenance[stop : stop + len(two)] == Provenance.CHUNK).all()
