"""Slots made by hand, for tests of what one eviction strategy notes of them and what it lets go."""

from __future__ import annotations

import pytest
import torch

from nbkv.context import Request
from nbkv.models.caches.evicting import ByteTally, EvictingLayer
from nbkv.strategy import parse

HEADS, GROUP = 2, 3  # K/V heads, and the query heads that share one


@pytest.fixture
def layer_of():
    """Give a function: a layer that holds ``n`` slots of zeros."""

    def make(n):
        layer = EvictingLayer(ByteTally())
        layer.update(torch.zeros(1, HEADS, n, 4), torch.zeros(1, HEADS, n, 4))
        return layer

    return make


@pytest.fixture
def weights():
    """Give a function: causal weights ``[H_k, G, n, T]`` of the last ``n`` rows, as sharp as trained heads'."""

    def draw(n_rows, n_slots, seed=0):
        scores = 4 * torch.randn(HEADS, GROUP, n_rows, n_slots, generator=torch.Generator().manual_seed(seed))
        first = n_slots - n_rows
        ahead = torch.arange(n_slots) > (first + torch.arange(n_rows))[:, None]
        return scores.masked_fill(ahead, float("-inf")).softmax(dim=-1)

    return draw


@pytest.fixture
def left():
    """Give a function: the slots that each head of a layer keeps when ``room`` may stay."""

    def evicted(strategy, layer, at, room):
        return [sorted(row) for row in strategy.worth(layer, at, room).topk(room, dim=-1).indices.tolist()]

    return evicted


@pytest.fixture
def opened():
    """Give a function: a strategy, what its prefill of a text made, and the context it ran in."""

    def prefill(session, text, spec, tokens=4):
        request, ctx = Request(session._prompt(text), tokens, keep=False), session._ctx.for_request()
        strategy = parse(spec)
        return strategy, strategy.prefill(request, ctx), ctx

    return prefill
