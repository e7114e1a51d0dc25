"""Attention is added up over all rows; the heaviest slots and the newest stay."""

from __future__ import annotations

import torch

from nbkv.strategy import parse

HEADS = 2  # those of `layer_of`


def test_h2o_adds_up_what_every_row_gives(layer_of, weights, left):
    given, at_once, in_parts = weights(12, 12), layer_of(12), layer_of(5)
    h2o = parse("h2o(recent=0.5)")
    h2o.see(at_once, given, torch.arange(12))
    h2o.see(in_parts, given[:, :, :5, :5], torch.arange(5))
    in_parts.update(torch.zeros(1, HEADS, 7, 4), torch.zeros(1, HEADS, 7, 4))
    h2o.see(in_parts, given[:, :, 5:], torch.arange(5, 12))

    assert torch.allclose(at_once.mark("received"), in_parts.mark("received"))
    assert torch.allclose(at_once.mark("received"), given.sum(dim=(1, 2)))
    for head, kept in enumerate(left(h2o, at_once, 12, 6)):
        heavy = given.sum(dim=(1, 2))[head, :9].topk(3).indices.tolist()
        assert kept == sorted([*heavy, 9, 10, 11])
