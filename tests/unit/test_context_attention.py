"""Attention kept between passes: what a merge with it is equal to, and what is computed again."""

from __future__ import annotations

import pytest
import torch

from nbkv.families.attention.context_attention import ContextAttention
from nbkv.families.attention.head_drift import HeadDrift
from nbkv.families.attention.topk_keys import pick
from nbkv.models.attention.layer import Attention

ROWS, OUTSIDE, HEADS, GROUPS = 4, 60, 2, 3


def layer(seed, *, index=0, keys=None, **more):
    """Queries, and keys of which the first 60 are always the same."""
    before, now = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    query = torch.randn(1, HEADS * GROUPS, ROWS, 16, generator=now)
    sides = [
        torch.cat(
            [torch.randn(1, HEADS, OUTSIDE, 16, generator=before), torch.randn(1, HEADS, ROWS, 16, generator=now)], 2
        )
        for _ in range(2)
    ]
    return Attention(index, query, *sides, 0.25, **more)


def whole(attention, *, seen=None, query=None):
    """One softmax in float64 over all keys, or those that are ``seen`` [H_q, rows, T]."""
    query = attention.query if query is None else query
    key, value = (side.double().repeat_interleave(GROUPS, 1) for side in (attention.key, attention.value))
    scores = query.double() @ key.mT * attention.scale
    if attention.softcap:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    if attention.sinks is not None:
        scores = torch.cat([scores, attention.sinks.double()[None, :, None, None].expand(1, -1, ROWS, 1)], -1)
        value = torch.cat([value, torch.zeros_like(value[:, :, :1])], 2)
    return scores.softmax(-1) @ value


def mixed(attention, old):
    """What a reusing pass must give: rows as they are to the block, as they were to what is outside."""
    outside = attention.outside
    key, value = (side.double().repeat_interleave(GROUPS, 1) for side in (attention.key, attention.value))
    far = old.query.double() @ key[:, :, :outside].mT * attention.scale
    near = attention.query.double() @ key[:, :, outside:].mT * attention.scale
    return torch.cat([far, near], -1).softmax(-1) @ value


def differ(a, b):
    return float((a.double() - b.double()).abs().max())


SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -3.0])


@pytest.mark.parametrize("more", [{}, {"softcap": 3.0}, {"sinks": SINKS}], ids=["plain", "softcap", "sinks"])
@pytest.mark.parametrize("density", [None, 0.2, 1.0])
def test_a_refresh_is_attention_to_everything(more, density):
    attention = layer(1, **more)

    assert differ(ContextAttention(density=density).refresh(attention), whole(attention)) < 1e-6


@pytest.mark.parametrize("density", [None, 0.2, 1.0])
def test_rows_that_have_not_changed_may_reuse(density):
    outside, attention = ContextAttention(density=density), layer(1)
    outside.refresh(attention)

    assert differ(outside.reusing()(attention), whole(attention)) < 1e-6


def test_reuse_is_the_old_rows_attention_outside():
    outside, old, new = ContextAttention(), layer(1), layer(2)
    outside.refresh(old)
    got = outside.reusing()(new)

    assert differ(got, mixed(new, old)) < 1e-6
    assert differ(got, whole(new)) > 1e-3


def test_revealed_rows_can_be_computed_again_and_are_kept():
    outside, old, new = ContextAttention(), layer(1), layer(2)
    outside.refresh(old)
    rows = torch.tensor([0, 2])
    for policy in (outside.reusing(rows), outside.reusing()):
        got = policy(new)

        assert differ(got[:, :, rows], whole(new)[:, :, rows]) < 1e-6
        assert differ(got[:, :, [1, 3]], mixed(new, old)[:, :, [1, 3]]) < 1e-6


def test_a_revealed_row_never_loses_what_is_outside():
    """The released kernel divides by the outside's mass without adding its output: the row all but vanishes."""
    attention = layer(1)
    attention.key[:, :, OUTSIDE:] -= 40 * attention.query[:, ::GROUPS]  # nearly all the mass is outside
    outside = ContextAttention()
    full = outside.refresh(attention)
    for rows in (None, torch.tensor([3])):
        got = outside.reusing(rows)(attention)

        assert float(got[:, :, 3].norm() / full[:, :, 3].norm()) > 0.99


@pytest.mark.parametrize("density", [None, 0.3])
def test_heads_that_change_are_computed_again(density):
    outside, old, new = ContextAttention(density=density), layer(1), layer(2)
    outside.refresh(old)
    fresh = outside.reusing(heads={0: [1]})(new)
    kept = outside.reusing(heads={1: [0]})(layer(2))

    assert differ(fresh[:, GROUPS:], whole(new)[:, GROUPS:]) < 1e-6
    assert differ(fresh[:, :GROUPS], whole(new)[:, :GROUPS]) > 1e-3
    assert torch.equal(kept[:, :GROUPS], fresh[:, :GROUPS])


def test_picked_keys_are_those_attended_to_most():
    attention = layer(1)
    picked = pick(attention, 0.2)
    weights = (attention.query @ attention.key.repeat_interleave(GROUPS, 1).mT * 0.25).softmax(-1)[..., :OUTSIDE]
    mass = weights.sum(2).reshape(HEADS, GROUPS, OUTSIDE).sum(1)
    best = mass.topk(12).indices.sort().values

    assert picked.key.shape == (1, HEADS, 12, 16)
    for head in range(HEADS):
        assert torch.equal(picked.key[0, head], attention.key[0, head, best[head]])
        assert torch.equal(picked.value[0, head], attention.value[0, head, best[head]])
        rest = (~picked.rest[0, head * GROUPS, 0]).nonzero().flatten()
        assert torch.equal(rest, best[head])


def test_sparse_attention_reads_picked_keys_anew_and_merges_or_drops_the_rest():
    old, new = layer(1), layer(2)
    rest = pick(old, 0.2).rest
    seen = torch.cat([~rest, torch.ones(1, HEADS * GROUPS, 1, ROWS, dtype=torch.bool)], -1)
    plain, residual = ContextAttention(density=0.2, residual=False), ContextAttention(density=0.2)
    for each in (plain, residual):
        assert differ(each.refresh(old), whole(old)) < 1e-6

    assert differ(plain.reusing()(new), whole(new, seen=seen)) < 1e-6
    key, value = (side.double().repeat_interleave(GROUPS, 1) for side in (new.key, new.value))
    scores = new.query.double() @ key.mT * 0.25
    far = old.query.double() @ key[:, :, :OUTSIDE].mT * 0.25
    scores[..., :OUTSIDE] = torch.where(rest, far, scores[..., :OUTSIDE])
    assert differ(residual.reusing()(new), scores.softmax(-1) @ value) < 1e-6


def test_the_picked_keys_stay_for_the_block():
    outside = ContextAttention(density=0.2)
    outside.refresh(layer(1))
    before = outside._picked[0]
    outside.refresh(layer(2))
    assert outside._picked[0] is before
    outside.forget()
    assert outside.empty
    outside.refresh(layer(2))
    assert outside._picked[0] is not before


def test_layers_without_anything_outside_are_the_models_own():
    attention, outside = layer(1), ContextAttention(frozenset({1}))
    bare = Attention(0, attention.query, attention.key[:, :, OUTSIDE:], attention.value[:, :, OUTSIDE:], 0.25)

    assert outside.refresh(bare) is None
    assert outside.refresh(layer(1, index=1)) is None
    assert outside.reusing()(layer(1, index=1)) is None
    assert outside.empty


def test_staleness_is_the_change_of_what_was_kept():
    outside, old, new = ContextAttention(), layer(1), layer(2)
    assert outside.staleness.cosine is outside.staleness.lse is None
    outside.refresh(old)
    outside.refresh(old)
    assert outside.staleness.cosine == pytest.approx(1)
    assert outside.staleness.lse == pytest.approx(0)

    found = HeadDrift()
    one, other = ((o[:, :, :1], lse[:, :, :1]) for o, lse in (pair(old), pair(new)))
    found.add(0, one, other)
    cosines, moves = found.heads()["0"]
    assert cosines[4] == pytest.approx(float(torch.cosine_similarity(one[0][0, 4, 0], other[0][0, 4, 0], dim=0)))
    assert moves[4] == pytest.approx(float((one[1] - other[1])[0, 4, 0].abs()))
    assert found.compared == 1


def pair(attention):
    return attention.to(attention.key[:, :, :OUTSIDE], attention.value[:, :, :OUTSIDE])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    attention = layer(1)
    states = (attention.query, attention.key, attention.value)
    half = Attention(0, *(each.to(dtype) for each in states), 0.25)
    outside = ContextAttention()

    assert outside.refresh(half).dtype == dtype
    assert outside._kept[0][0].dtype == torch.float32
    assert differ(outside.reusing()(half), whole(attention)) < 2e-2
