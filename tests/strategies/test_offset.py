"""Offset: the rows of influence, and what they tell of a chunk's other rows."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategy import parse


def prompt_of(session, words):
    one, two = session.chunk(words(40, seed=1), name="one"), session.chunk(words(40, seed=2), name="two")
    return [words(3, seed=3), one, two, words(6, seed=4)]


def logits_of(session, prompt, spec):
    from nbkv.studies.divergence import trace

    return trace(session, prompt, (5, 6, 7), spec).logits


def test_it_runs_the_rows_of_influence_and_moves_the_others(session_of, words):
    session = session_of("llama")
    prompt = prompt_of(session, words)
    specs = ("influence", "offset", "influence")  # the first one has what stands in front of the chunks be kept
    _, own, other = (session.generate(prompt, strategy=spec, max_new_tokens=2) for spec in specs)

    assert own.lineage == "approx:offset"
    again = own.provenance == Provenance.RECOMPUTED
    assert (again == (other.provenance == Provenance.RECOMPUTED)).all()
    assert ((own.provenance == Provenance.CORRECTED) == (other.provenance == Provenance.CHUNK)).all()
    assert own.tokens == other.tokens
    assert own.compute.share == other.compute.share
    assert int((own.provenance == Provenance.RECOMPUTED).sum()) == 12
    none, whole = logits_of(session, prompt, "offset(repair=0)"), logits_of(session, prompt, "offset")
    assert torch.equal(none, logits_of(session, prompt, "influence"))
    assert not torch.equal(none, whole)


def test_what_the_store_holds_stays_as_it_was(session_of, words):
    session = session_of("llama")
    prompt = prompt_of(session, words)
    ctx = session._open().for_request()
    path = (*prompt[1].sink, *prompt[1].token_ids)
    before = session.store.copied(ctx.space(), path, 0)
    session.generate(prompt, strategy="offset", max_new_tokens=2)
    after = session.store.copied(ctx.space(), path, 0)
    assert all(torch.equal(one, two) for one, two in zip(before.values, after.values, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(before.keys, after.keys, strict=True))


@pytest.mark.parametrize("share", [-0.1, 1.5, "all"])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(BadOption, match="repair"):
        parse(f"offset(repair={share!r})")
