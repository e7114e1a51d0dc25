"""Offset: the rows of influence, and what they tell of a chunk's other rows."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.families.blend.repair import LayerRepair, RepairedChunk, typical
from nbkv.result import Provenance
from nbkv.strategy import parse


def test_one_outlier_does_not_make_the_typical_change():
    changes = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1e6]]])
    assert torch.allclose(typical(changes), torch.tensor([[[1.0, 1 / 3]]]), atol=1e-3)
    assert torch.equal(typical(torch.zeros(2, 3, 4)), torch.zeros(2, 1, 4))


@pytest.mark.parametrize("family", ["llama", "cohere2"])
def test_a_change_that_all_rows_share_is_undone_wherever_they_stand(session_of, family):
    rope, places = session_of(family).adapter.rope, torch.arange(12)
    rotation, heads, width = rope.layers[0], 2, session_of(family).adapter.capabilities.key_dim[0]
    draw = torch.Generator().manual_seed(1)
    plain, shift = torch.randn(heads, 12, width, generator=draw), torch.randn(heads, 1, width, generator=draw)
    turned = lambda keys: rotation.rotate(keys, *rotation.angles(torch.zeros_like(places), places))  # noqa: E731
    true, cached = turned(plain + shift), turned(plain)
    values = plain + shift, plain.clone()
    chosen, others = torch.tensor([1, 4, 7]), torch.tensor([2, 3, 5, 6])
    repair = LayerRepair([RepairedChunk(chosen, others)], rotation, 1.0)

    at = torch.tensor([0, 1, 4, 7, 11])
    before = cached.clone()
    repair((cached, values[1]), (true[:, at], values[0][:, at]), at)

    assert torch.allclose(cached[:, others], true[:, others], atol=1e-5)
    assert torch.allclose(values[1][:, others], values[0][:, others], atol=1e-5)
    untouched = torch.tensor([0, 1, 4, 7, 8, 9, 10, 11])
    assert torch.equal(cached[:, untouched], before[:, untouched]), "only the chunk's other rows move"


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
    assert (own.provenance == other.provenance).all()
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
