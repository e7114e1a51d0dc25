"""The slot that the newest row attends to least goes."""

from __future__ import annotations

import torch

from nbkv.strategy import parse


def test_tova_drops_what_the_last_row_sees_least(layer_of, weights):
    layer, given = layer_of(8), weights(3, 8)
    tova = parse("tova")
    tova.see(layer, given, torch.arange(5, 8))

    assert tova.per == "layer"
    assert tova.worth(layer, 8, 7).argmin(dim=-1).tolist() == given[:, :, -1].mean(dim=1).argmin(dim=-1).tolist()
