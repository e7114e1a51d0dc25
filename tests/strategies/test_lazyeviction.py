"""Time stamps and recurrence intervals are the paper's; eviction waits for a window."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.models.caches.evicting import ByteTally, EvictingLayer
from nbkv.strategies.lazyeviction import importance
from nbkv.strategy import parse

HEADS = 2  # those of `layer_of`


def by_hand(given, alpha, n):
    """TS and MRI, row by row, as the paper defines them; a slot begins with the row it was made by."""
    last = torch.arange(n).repeat(HEADS, 1)
    longest = torch.zeros(HEADS, n, dtype=torch.long)
    first = n - given.shape[2]
    for row in range(given.shape[2]):
        used = given[:, :, row].amax(dim=1) > alpha
        gap = first + row - last
        longest = torch.where(used, torch.maximum(longest, gap), longest)
        last = torch.where(used, torch.full_like(last, first + row), last)
    return last, longest


@pytest.mark.parametrize("parts", [[40], [1] * 40, [7, 1, 20, 12]])
def test_uses_and_intervals_are_the_papers_however_rows_come(parts, weights):
    given, lazy = weights(40, 40), parse("lazyeviction(alpha=0.05)")
    layer, at = EvictingLayer(ByteTally()), 0
    for part in parts:
        layer.update(torch.zeros(1, HEADS, part, 4), torch.zeros(1, HEADS, part, 4))
        lazy.see(layer, given[:, :, at : at + part, : at + part], torch.arange(at, at + part))
        at += part
    last, longest = by_hand(given, 0.05, 40)

    assert torch.equal(layer.positions + layer.mark("since", torch.int32), last.int())
    assert torch.equal(layer.mark("longest", torch.int32), longest.int())
    assert longest.max() > 5


def test_the_score_is_the_papers():
    now, last, longest = 100, torch.tensor([100, 90, 90, 99, 50]), torch.tensor([0, 0, 10, 1, 100])
    one, sigmoid = torch.tensor(1.0), torch.sigmoid
    expected = [
        one,  # in use, never back after a gap: H1 only
        one * 0,  # used once, long ago
        2 * sigmoid(-one) + 2 * sigmoid(-11 * one),
        2 * sigmoid(-one) + 2 * sigmoid(-2 * one),
        2 * sigmoid(-0.5 * one) + 2 * sigmoid(-101 * one),
    ]
    assert torch.allclose(importance(now, last, longest), torch.stack(expected), atol=1e-6)


def test_what_comes_back_at_long_intervals_outlives_what_was_used_later_once(layer_of, left):
    layer, lazy = layer_of(60), parse("lazyeviction(window=4)")
    layer.mark("since", torch.int32)[:, 10] = 30  # used at 40, after 30
    layer.mark("longest", torch.int32)[:, 10] = 30
    layer.mark("since", torch.int32)[:, 20] = 35  # used at 55, and all the time before: never after a gap

    assert left(lazy, layer, 60, 5) == [[10, *range(56, 60)]] * HEADS
    assert left(lazy, layer, 60, 13) == [[10, 20, *range(49, 60)]] * HEADS  # what is left by when it was used


def test_eviction_waits_for_a_window_and_leaves_the_newest(session_of, words, opened):
    session = session_of(strategy="full")
    strategy, prefilled, ctx = opened(session, words(60), "lazyeviction(keep=40, window=8)")
    lengths = []
    for count in range(20):
        strategy.step(5, 61 + count, prefilled, ctx)
        lengths.append(prefilled.cache.layers[0].length)
        newest = set(range(61 + count - 7, 62 + count))
        assert all(newest <= set(row) for row in prefilled.cache.layers[0].positions.tolist())
    assert lengths == [*range(33, 41), *range(33, 41), 33, 34, 35, 36]


@pytest.mark.parametrize("options", ["window=0", "alpha=0", "alpha=1.0", "alpha='low'"])
def test_a_window_and_a_threshold_are_checked(options):
    with pytest.raises(BadOption, match="not accepted"):
        parse(f"lazyeviction({options})")


def test_what_is_noted_is_two_numbers_a_slot(session_of, words, opened):
    _, prefilled, _ = opened(session_of(strategy="full"), words(40), "lazyeviction(keep=20)")
    marks = prefilled.cache.layers[0]._marks

    assert set(marks) == {"position", "since", "longest"}
    assert all(mark.dtype == torch.int32 for mark in marks.values())
