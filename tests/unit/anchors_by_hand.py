"""Anchors made by hand, of one layer and one head, for tests of what is made of them."""

from __future__ import annotations

import torch

from nbkv.families.agents.anchors import Anchor
from nbkv.kv import KV, Space

SPACE = Space("model", "float32")


def kv(values):
    """Return K/V of one layer and head, one dimension: keys are ``values``, the values ten times as much."""
    keys = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1)
    return KV((keys,), (10 * keys,))


def anchor(ids, offsets=None, *, marks=None, place=((0,),), behind_ids=(), behind=None, space=SPACE, **more):
    """Return an anchor; its marks are its ids one-hot unless given."""
    known = torch.nn.functional.one_hot(torch.tensor(ids), 32).float() if marks is None else torch.tensor(marks)
    after = [0.0] * len(behind_ids) if behind is None else behind
    return Anchor(
        space=space,
        place=place,
        ids=tuple(ids),
        marks=known,
        kv=kv([0.0] * len(ids) if offsets is None else offsets),
        behind_ids=tuple(behind_ids),
        behind=kv(after),
        **more,
    )
