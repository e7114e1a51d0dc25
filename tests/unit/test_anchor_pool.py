"""The pool knows its anchors by place and space, counts their uses, and lets the least used of the oldest go."""

from __future__ import annotations

import pytest
import torch
from anchors_by_hand import SPACE, anchor

from nbkv.families.agents import anchor_pool
from nbkv.families.agents.offsets import Neighbours
from nbkv.kv import Space

OTHER = Space("another model", "float32")


def near(anchors, *shares):
    return Neighbours(tuple(anchors), torch.zeros(1, len(shares), dtype=torch.long), torch.tensor([shares]))


def test_anchors_are_found_by_place_and_space():
    one, two = anchor([1]), anchor([1], place=((0,), ()))
    three = anchor([1], space=OTHER)

    assert anchor_pool.at([one, two, three], SPACE, ((0,),)) == [one]
    assert anchor_pool.at([one, two, three], SPACE, ((0,), ())) == [two]
    assert anchor_pool.at([one, two, three], OTHER, ((0,),)) == [three]
    assert anchor_pool.at([], SPACE, ()) == []


@pytest.mark.parametrize(
    ("uses", "gone"),
    [([3, 1, 2], 1), ([1, 1, 2], 0), ([5, 5, 5, 5, 5, 0, 0], 0), ([5, 5, 5, 5, 4, 0, 0], 4)],
)
def test_of_a_full_place_the_least_used_of_the_five_oldest_goes(uses, gone):
    pool = [anchor([at], uses=n) for at, n in enumerate(uses)]
    left = anchor_pool.added(pool, anchor([30]), most=len(uses))

    assert [one.ids[0] for one in left] == [at for at in range(len(uses)) if at != gone] + [30]


def test_a_full_place_leaves_others_alone():
    elsewhere = anchor([1], place=((9,),))
    left = anchor_pool.added([elsewhere, anchor([2]), anchor([3])], anchor([4]), most=2)

    assert [one.ids[0] for one in left] == [1, 3, 4]


def test_the_same_text_stays_one_anchor_with_its_uses():
    (one,) = anchor_pool.added([anchor([2], uses=4, age=3)], anchor([2]), most=2)

    assert (one.uses, one.age) == (4, 0)


@pytest.mark.parametrize(
    ("shares", "uses"), [((0.95, 0.05), [1, 0]), ((0.6, 0.4), [1, 1]), ((0.05, 0.95), [0, 1]), ((1.0, 0.0), [1, 0])]
)
def test_anchors_that_have_nine_tenths_of_the_weight_were_of_use(shares, uses):
    pool = [anchor([1]), anchor([2]), anchor([3], place=((9,),)), anchor([4], space=OTHER)]
    found = anchor_pool.used(pool, [(((0,),), near(pool[:2], *shares))], SPACE)

    assert [one.uses for one in found] == [*uses, 0, 0]
    assert [one.age for one in found] == [1, 1, 0, 0]
