"""Votes of the observation window, pooled over neighbours in the prompt."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.strategy import parse

HEADS, GROUP = 2, 3  # those of `layer_of` and `weights`


def test_snapkv_counts_votes_with_neighbours_and_keeps_its_window(layer_of, left):
    layer, given = layer_of(20), torch.full((HEADS, GROUP, 4, 20), 1e-3)
    given[0, :, :, 5] = 0.9
    given[1, 1, 2, 11] = 0.9
    snapkv = parse("snapkv(window=4, kernel=3)")
    snapkv.see(layer, given, torch.arange(16, 20))
    window = [16, 17, 18, 19]

    assert left(snapkv, layer, 20, 7) == [[4, 5, 6, *window], [10, 11, 12, *window]]
    layer.update(torch.zeros(1, HEADS, 3, 4), torch.zeros(1, HEADS, 3, 4))  # of the answer
    assert left(snapkv, layer, 23, 10) == [[4, 5, 6, *window, 20, 21, 22], [10, 11, 12, *window, 20, 21, 22]]
    assert left(snapkv, layer, 23, 3) == [[20, 21, 22]] * HEADS


def test_snapkv_pools_over_neighbours_in_the_prompt_not_in_memory(layer_of):
    layer, given = layer_of(12), torch.full((HEADS, GROUP, 1, 11), 1e-3)
    layer.drop(torch.tensor([3, 3]))  # the last slot has taken the place of position 3
    given[:, :, :, 3] = 0.9  # ... and is voted for; its neighbour in the prompt is position 10
    snapkv = parse("snapkv(window=1, kernel=3)")
    snapkv.see(layer, given, torch.tensor([11]))
    votes = snapkv.worth(layer, 12, 4)

    assert votes[0, 10] > votes[0, 4]
    assert votes[0, 2] == votes[0, 4]


@pytest.mark.parametrize(("options", "why"), [("kernel=4", "odd"), ("kernel=0", ">= 1"), ("window=300", "at most")])
def test_a_vote_that_cannot_be_counted_is_refused(options, why):
    with pytest.raises(BadOption, match=why):
        parse(f"snapkv({options})")
