"""What each eviction method notes of its slots and what it lets go, on slots made by hand."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.models.caches.evicting import ByteTally, EvictingLayer
from nbkv.strategies.lazyeviction import importance
from nbkv.strategy import parse

HEADS, GROUP = 2, 3


def layer_of(n):
    layer = EvictingLayer(ByteTally())
    layer.update(torch.zeros(1, HEADS, n, 4), torch.zeros(1, HEADS, n, 4))
    return layer


def weights(n_rows, n_slots, seed=0):
    """Causal weights ``[H_k, G, n, T]`` of the last rows, as sharp as trained heads have them."""
    scores = 4 * torch.randn(HEADS, GROUP, n_rows, n_slots, generator=torch.Generator().manual_seed(seed))
    first = n_slots - n_rows
    ahead = torch.arange(n_slots) > (first + torch.arange(n_rows))[:, None]
    return scores.masked_fill(ahead, float("-inf")).softmax(dim=-1)


def left(strategy, layer, at, room):
    return [sorted(row) for row in strategy.worth(layer, at, room).topk(room, dim=-1).indices.tolist()]


def test_window_keeps_the_newest():
    assert left(parse("window"), layer_of(9), 9, 4) == [[5, 6, 7, 8]] * HEADS


def test_streaming_keeps_sinks_and_the_newest():
    assert left(parse("streaming(sinks=2)"), layer_of(9), 9, 5) == [[0, 1, 6, 7, 8]] * HEADS
    assert left(parse("streaming"), layer_of(9), 9, 3) == [[0, 1, 8]] * HEADS  # the newest has room all the same


def test_h2o_adds_up_what_every_row_gives():
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


def test_tova_drops_what_the_last_row_sees_least():
    layer, given = layer_of(8), weights(3, 8)
    tova = parse("tova")
    tova.see(layer, given, torch.arange(5, 8))

    assert tova.per == "layer"
    assert tova.worth(layer, 8, 7).argmin(dim=-1).tolist() == given[:, :, -1].mean(dim=1).argmin(dim=-1).tolist()


def test_snapkv_counts_votes_with_neighbours_and_keeps_its_window():
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


def test_snapkv_pools_over_neighbours_in_the_prompt_not_in_memory():
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


# LazyEviction


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
def test_uses_and_intervals_are_the_papers_however_rows_come(parts):
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


def test_what_comes_back_at_long_intervals_outlives_what_was_used_later_once():
    layer, lazy = layer_of(60), parse("lazyeviction(window=4)")
    layer.mark("since", torch.int32)[:, 10] = 30  # used at 40, after 30
    layer.mark("longest", torch.int32)[:, 10] = 30
    layer.mark("since", torch.int32)[:, 20] = 35  # used at 55, and all the time before: never after a gap

    assert left(lazy, layer, 60, 5) == [[10, *range(56, 60)]] * HEADS
    assert left(lazy, layer, 60, 13) == [[10, 20, *range(49, 60)]] * HEADS  # what is left by when it was used


def test_eviction_waits_for_a_window_and_leaves_the_newest(session_of, words):
    from nbkv.context import Request

    session, strategy = session_of(strategy="full"), parse("lazyeviction(keep=40, window=8)")
    request, ctx = Request(session._prompt(words(60)), 4, keep=False), session._ctx.for_request()
    prefilled = strategy.prefill(request, ctx)
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
