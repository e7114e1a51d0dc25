"""Uses, intervals and score are those of the authors' code; eviction waits for the end of a window of the answer."""

from __future__ import annotations

import math

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.models.caches.evicting import ByteTally, EvictingLayer
from nbkv.strategies.lazyeviction import importance
from nbkv.strategy import parse

HEADS = 2  # those of `layer_of`


def told(layer, n):
    """Add ``n`` slots to ``layer``."""
    layer.update(torch.zeros(1, HEADS, n, 4), torch.zeros(1, HEADS, n, 4))


def by_the_paper(given, prompt, alpha):
    """TS and MRI in steps of decoding, for each slot: TS begins at 0 in the prompt, else at the step before its own."""
    found = []
    for head in range(HEADS):
        ts = [max(0, slot - prompt) for slot in range(given.shape[3])]
        mri = [0] * len(ts)
        for step in range(1, given.shape[2] + 1):
            for slot in range(prompt + step):
                if given[head, :, step - 1, slot].max() >= alpha:
                    mri[slot] = max(mri[slot], step - ts[slot])
                    ts[slot] = step
        found.append((ts, mri))
    return found


@pytest.mark.parametrize("parts", [[30], [1] * 30, [7, 1, 20, 2]])
def test_uses_and_intervals_are_counted_in_steps_of_the_answer(parts, weights):
    given, lazy, prompt = weights(30, 50), parse("lazyeviction(alpha=0.05)"), 20
    layer, at = EvictingLayer(ByteTally()), 0
    told(layer, prompt)
    for part in parts:
        told(layer, part)
        slots = prompt + at + part
        lazy.see(layer, given[:, :, at : at + part, :slots], torch.arange(prompt + at, slots))
        at += part
    expected = by_the_paper(given, prompt, 0.05)

    assert (30 - layer.mark("idle", torch.int32)).tolist() == [ts for ts, _ in expected]
    assert layer.mark("longest", torch.int32).tolist() == [mri for _, mri in expected]
    assert max(max(mri) for _, mri in expected) > 5


def test_the_score_is_that_of_the_authors_code():
    cases = {(0, 0): 2 / (1 + math.e), (9, 0): 0.0}  # never back: in use, or used long ago
    for idle, mri in [(0, 1), (1, 1), (10, 10), (10, 3), (50, 100), (900, 2)]:
        cases[idle, mri] = 2 / (1 + math.exp(1 + idle / (mri + 1e-5))) + 2 / (1 + math.exp(mri - 1))
    idle, longest = torch.tensor(list(cases)).unbind(dim=1)

    assert torch.allclose(importance(idle, longest), torch.tensor(list(cases.values())).double(), atol=1e-12)


def test_what_comes_back_at_long_intervals_outlives_what_was_used_later_once(layer_of, left):
    layer, lazy = layer_of(60), parse("lazyeviction(window=4)")
    idle, longest = layer.mark("idle", torch.int32), layer.mark("longest", torch.int32)
    idle += 50
    idle[:, 10], longest[:, 10] = 20, 30
    idle[:, 20] = 5  # used later, but never after an interval

    assert left(lazy, layer, 60, 5) == [[10, *range(56, 60)]] * HEADS
    assert left(lazy, layer, 60, 13) == [[10, *range(48, 60)]] * HEADS  # of equal ones the newer


def test_a_threshold_is_twice_uniform_attention_unless_it_is_given(layer_of):
    def used(n, most, spec="lazyeviction"):
        layer = layer_of(n)
        given = torch.full((HEADS, 1, 1, n), 0.5 / n)
        given[..., 3] = most
        parse(spec).see(layer, given, torch.tensor([n - 1]))
        return (layer.mark("idle", torch.int32) == 0).nonzero()[:, 1].tolist()

    assert used(10, 0.21) == used(1000, 0.0021) == [3] * HEADS
    assert used(10, 0.19) == used(1000, 0.0019) == []
    assert len(used(10, 0.21, "lazyeviction(alpha=0.0005)")) == 10 * HEADS  # less than uniform: everything is used


def test_eviction_waits_for_the_end_of_each_window_and_leaves_keep(session_of, words, opened):
    session = session_of(strategy="full")
    strategy, prefilled, ctx = opened(session, words(60), "lazyeviction(keep=40, window=8)", 24)
    layer, lengths = prefilled.cache.layers[0], [prefilled.cache.layers[0].length]
    for count in range(20):
        strategy.step(5, 61 + count, prefilled, ctx)
        lengths.append(layer.length)
        assert layer.capacity <= max(layer.limit, layer.length)
        newest = set(range(61 + count - 7, 62 + count))
        assert all(newest <= set(row) for row in layer.positions.tolist())
    # the prompt of 61 and a window, then 40 and up to a window more
    assert lengths == [61, *range(62, 70), *range(41, 49), *range(41, 45)]


def test_what_stays_is_what_the_authors_rule_keeps(session_of, words, opened, monkeypatch):
    session, given = session_of(strategy="full"), []
    strategy, prefilled, ctx = opened(session, words(40), "lazyeviction(keep=24, window=6, alpha=0.03)", 40)
    see = type(strategy).see

    def keep(self, layer, weights, rows):
        if layer.index == 0:
            given.append((layer.positions.tolist(), weights.amax(dim=1)[:, 0].tolist()))
        see(self, layer, weights, rows)

    monkeypatch.setattr(type(strategy), "see", keep)
    for count in range(25):
        strategy.step(5 + count, 41 + count, prefilled, ctx)
    scores = [_the_authors_rule(head, given, prompt=41, budget=24, window=6, alpha=0.03) for head in range(HEADS)]

    assert [sorted(row) for row in prefilled.cache.layers[0].positions.tolist()] == scores


def _the_authors_rule(head, given, prompt, budget, window, alpha):
    """Return the positions that are left of one head after the steps whose weights are ``given``."""
    ts, mri, held = dict.fromkeys(range(prompt), 0), dict.fromkeys(range(prompt), 0), list(range(prompt))
    for step, (positions, weights) in enumerate(given, start=1):
        if step > 1 and (step - 1) % window == 0 and len(held) > budget:
            t, old, newest = step - 1, held[:-window], held[-window:]
            score = {
                slot: 2 / (1 + math.exp(min(700, 1 + (t - ts[slot]) / (mri[slot] + 1e-5))))
                + (2 / (1 + math.exp(mri[slot] - 1)) if mri[slot] else 0)
                for slot in old
            }
            best = sorted(old, key=lambda slot: (round(score[slot], 12), slot))[window - budget :]
            held = sorted(best) + newest
        new = prompt + step - 1
        held.append(new)
        ts[new], mri[new] = step - 1, 0
        for slot, weight in zip(positions[head], weights[head], strict=True):
            if weight >= alpha:
                mri[slot], ts[slot] = max(mri[slot], step - ts[slot]), step
    return held


def test_an_answer_within_the_window_is_fulls(session_of, words):
    session = session_of(strategy="full")
    full, within, behind = (
        session.generate(words(60), strategy=spec, max_new_tokens=12)
        for spec in ("full", "lazyeviction(keep=0.2, window=12)", "lazyeviction(keep=0.2, window=8)")
    )

    assert within.token_ids == full.token_ids
    assert within.kept.all()
    assert 0 < behind.kept.sum() < 20


@pytest.mark.parametrize(
    "options",
    ["window=0", "alpha=0", "alpha=1.0", "alpha='low'", "keep=20, window=20", "context='chunks'", "context=12"],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BadOption, match="not accepted"):
        parse(f"lazyeviction({options})")


def test_what_is_noted_is_two_numbers_a_slot(session_of, words, opened):
    strategy, prefilled, ctx = opened(session_of(strategy="full"), words(40), "lazyeviction(keep=20, window=4)")
    strategy.step(5, 41, prefilled, ctx)
    marks = prefilled.cache.layers[0]._marks

    assert set(marks) == {"position", "idle", "longest"}
    assert all(mark.dtype == torch.int32 for mark in marks.values())
