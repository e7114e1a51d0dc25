"""The pool of anchors: what is known at a place, what a prompt adds to it, and which of them were of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nbkv.families.agents.anchors import Anchor, Place
from nbkv.families.agents.offsets import Neighbours
from nbkv.kv import Space

_OLDEST = 5  # of a full place the least used of its oldest so many goes, as in KVCOMM's released code
_MASS = 0.9  # the anchors of use to a text are the fewest that have this much of its weight, as there


def at(anchors: Sequence[Anchor], space: Space, place: Place) -> list[Anchor]:
    """Return those of ``anchors`` that stood at ``place``, the oldest first."""
    return [anchor for anchor in anchors if anchor.place == place and anchor.space == space]


def added(anchors: Sequence[Anchor], new: Anchor, most: int) -> list[Anchor]:
    """Return ``anchors`` with a ``new`` one, which takes the place of one of the same text; at most ``most`` a place.

    Of a place that has more the least used of the five oldest goes.
    """
    again = [one for one in at(anchors, new.space, new.place) if one.ids == new.ids]
    left = [one for one in anchors if one not in again]
    there = at(left, new.space, new.place)
    if len(there) >= most:
        gone = min(there[:_OLDEST], key=lambda one: one.uses)
        left = [one for one in left if one is not gone]
    return [*left, replace(new, uses=sum(one.uses for one in again))]


def used(anchors: Sequence[Anchor], served: Sequence[tuple[Place, Neighbours]], space: Space) -> list[Anchor]:
    """Return ``anchors`` with the uses counted that a prompt with these neighbours made of them."""
    useful = {id(anchor) for _, near in served for anchor in heaviest(near)}
    places = {place for place, _ in served}
    return [
        replace(anchor, uses=anchor.uses + (id(anchor) in useful), age=anchor.age + 1)
        if anchor.space == space and anchor.place in places
        else anchor
        for anchor in anchors
    ]


def heaviest(near: Neighbours) -> list[Anchor]:
    """Return the fewest anchors that together have nine tenths of the weight."""
    order = near.shares.argsort(descending=True, stable=True)
    before = near.shares[order].cumsum(dim=0) - near.shares[order]
    return [near.anchors[index] for index in order[before < _MASS].tolist()]
