"""Offsets are the weighted means of those of the tokens that a text's tokens are likened to."""

from __future__ import annotations

from math import log2

import pytest
import torch
from anchors_by_hand import anchor, kv

from nbkv.families.agents.offsets import (
    Alignment,
    Neighbours,
    beyond_rounding,
    comparison,
    difference,
    explained,
    followed,
    offset,
    total,
    trust,
)

ONES = torch.ones(2, 1)
TOKEN, POSITION = Alignment("token", 0.05), Alignment("position", 0.05)


def one_hot(*ids):
    return torch.nn.functional.one_hot(torch.tensor(ids), 32).float()


def near(text, anchors, alignment=TOKEN):
    return alignment.neighbours(one_hot(*text), tuple(text), anchors)


def keys(found):
    return found.keys[0].flatten().tolist()


def test_a_token_takes_the_offset_of_the_same_token_elsewhere():
    anchors = [anchor([3, 4, 5], [0.3, 0.4, 0.5]), anchor([5, 3, 4], [0.5, 0.3, 0.4])]
    found = offset(near([4, 5], anchors), ONES)

    assert keys(found) == pytest.approx([0.4, 0.5], abs=1e-6)
    assert found.values[0].flatten().tolist() == pytest.approx([4.0, 5.0], abs=1e-5)


def test_by_position_it_takes_that_of_the_token_in_its_place():
    anchors = [anchor([3, 4, 5], [1.0, 2.0, 3.0]), anchor([6, 7, 8], [3.0, 4.0, 5.0])]

    assert keys(offset(near([9, 10], anchors, POSITION), ONES)) == pytest.approx([2.0, 3.0])
    assert keys(offset(near([3, 10], anchors, POSITION), ONES))[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("alignment", [TOKEN, POSITION])
def test_an_anchor_of_the_same_text_takes_all_weight_and_is_taken_whole(alignment):
    anchors = [anchor([3, 4], [1.0, 2.0]), anchor([3, 5], [7.0, 9.0])]
    found = near([3, 4], anchors, alignment)

    assert found.anchors == (anchors[0],)
    assert found.entropy == 0.0
    assert keys(offset(found, 0.1 * ONES)) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("alignment", [TOKEN, POSITION])
def test_distances_do_not_depend_on_size_or_width(scale, width, alignment):
    """What saturates in the released formulas: wide or long sums of squares leave one anchor all the weight."""
    draw = torch.Generator().manual_seed(1)
    text, *others = (torch.randn(6, 16, generator=draw).repeat(1, width) * scale for _ in range(4))
    anchors = [anchor([at] * 6, marks=one.tolist()) for at, one in enumerate(others, 10)]
    plain = [anchor([at] * 6, marks=one[:, :16].div(scale).tolist()) for at, one in enumerate(others, 10)]
    mine = alignment.neighbours(text, (1,) * 6, anchors)
    wanted = alignment.neighbours(text[:, :16] / scale, (1,) * 6, plain)

    assert torch.allclose(mine.weights, wanted.weights, atol=1e-3)
    assert 0.05 * log2(3) < mine.entropy < 0.999 * log2(3)


def test_entropy_is_highest_where_no_anchor_stands_out():
    anchors = [anchor([3, 4]), anchor([5, 6]), anchor([7, 8])]
    stranger, half, known = (near(text, anchors).entropy for text in ([20, 21], [3, 21], [3, 4]))

    assert stranger == pytest.approx(log2(3))
    assert known == 0.0
    assert half == pytest.approx(log2(3) / 2, abs=1e-3)


@pytest.mark.parametrize(("how", "length", "enough"), [("position", 10, 1), ("token", 10, 2), ("token", 21, 0)])
def test_anchors_are_long_enough(how, length, enough):
    anchors = [anchor(list(range(n))) for n in (4, 5, 10)]
    assert len(Alignment(how, 0.05).long_enough(length, anchors)) == enough


def test_the_nearer_position_counts_where_a_token_comes_twice():
    anchors = [anchor([3, 9, 9, 9, 9, 3], [1.0, 0.0, 0.0, 0.0, 0.0, 2.0]), anchor([7, 7, 7, 7, 7, 7])]
    found = near([8, 8, 8, 8, 8, 3], anchors)

    assert found.rows[5, 0] == 5


def test_factors_scale_keys_and_values_apart():
    anchors = [anchor([3], [2.0]), anchor([4], [2.0])]
    found = offset(near([9], anchors), torch.tensor([[0.5], [0.25]]))

    assert (keys(found), found.values[0].item()) == ([1.0], 5.0)


# the text behind


def test_the_text_behind_is_the_mean_of_what_stood_there():
    anchors = [anchor([3], behind_ids=(1, 2), behind=[1.0, 2.0]), anchor([4], behind_ids=(1, 2), behind=[3.0, 4.0])]
    even = Neighbours(tuple(anchors), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[0.5, 0.5]]))
    one = Neighbours(tuple(anchors), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[1.0, 0.0]]))

    assert keys(followed(even, (1, 2))) == [2.0, 3.0]
    assert keys(followed(one, (1, 2))) == [1.0, 2.0]
    assert keys(followed(even, (1, 9))) == [2.0]
    assert followed(even, (9, 2)) is None
    assert followed(even, ()) is None


def test_only_anchors_with_most_of_the_text_count():
    anchors = [anchor([3], behind_ids=(1, 2), behind=[1.0, 2.0]), anchor([4], behind_ids=(1, 9), behind=[3.0, 4.0])]
    even = Neighbours(tuple(anchors), torch.zeros(1, 2, dtype=torch.long), torch.tensor([[0.5, 0.5]]))

    assert keys(followed(even, (1, 2))) == [1.0, 2.0]


# how far offsets are to be trusted


def heldout(true, guessed):
    return comparison(kv(true), kv(guessed))


@pytest.mark.parametrize(
    ("true", "guessed", "factor", "share"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0, 1.0),
        ([1.0, 2.0], [2.0, 4.0], 0.5, 1.0),
        ([1.0, 0.0], [1.0, 1.0], 0.5, 0.5),
        ([1.0, 0.0], [0.0, 1.0], 0.0, 0.0),
        ([1.0, 0.0], [-1.0, 0.0], 0.0, 0.0),
        ([3.0, 3.0], [1.0, 1.0], 1.0, 5 / 9),
    ],
)
def test_offsets_are_trusted_as_far_as_they_proved_right(true, guessed, factor, share):
    known = [anchor([1, 2], heldout=heldout(true, guessed))]

    assert trust(known).flatten().tolist() == pytest.approx([factor] * 2)
    assert explained(known * 2) == pytest.approx(share)


@pytest.mark.parametrize(
    ("both", "share"),
    [
        ([([1.0, 2.0], [1.0, 2.0]), ([2.0, 1.0], [2.0, 1.0])], 1.0),
        ([([1.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [-1.0, 0.0])], -1.5),  # each is trusted as far as the other one is
        ([([1.0, 0.0], [0.0, 1.0]), ([1.0, 0.0], [0.5, 0.0])], -0.5),
        ([([0.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, 0.0])], -1.0),
        ([([0.0], [0.0]), ([0.0], [0.0])], 1.0),
    ],
)
def test_what_is_explained_leaves_each_anchor_out(both, share):
    """What an anchor's own offsets say of how far to trust is not in what it is compared with."""
    assert explained([anchor([1], heldout=heldout(*pair)) for pair in both]) == pytest.approx(share)


def test_what_was_never_compared_is_trusted():
    assert trust([anchor([1])]).tolist() == [[1.0], [1.0]]
    assert explained([anchor([1])]) is None
    assert explained([anchor([1]), anchor([2], heldout=heldout([1.0], [1.0]))]) is None


@pytest.mark.parametrize(("size", "kept"), [(0.0, False), (1e-7, False), (1e-6, False), (1e-4, True), (1.0, True)])
def test_rounding_is_no_offset(size, kept):
    own = kv([1.0, -2.0, 3.0])
    left = beyond_rounding(kv([size, -size, size]), own)

    assert keys(left) == pytest.approx([size, -size, size] if kept else [0.0] * 3)
    assert bool(left.values[0].any()) is kept


def test_comparisons_of_all_anchors_add_up():
    known = [anchor([1], heldout=heldout([1.0], [1.0])), anchor([2]), anchor([3], heldout=heldout([0.0], [1.0]))]

    assert trust(known).flatten().tolist() == pytest.approx([0.5] * 2)


def test_sums_and_differences():
    one, other = kv([1.0, 2.0]), kv([0.5, 0.5])

    assert keys(difference(total(one, other), other)) == [1.0, 2.0]
    assert difference(one, other).values[0].flatten().tolist() == [5.0, 15.0]
