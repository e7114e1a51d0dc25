"""The formulas of Cache-Craft: order penalty, overlap, contextualisation, and how rows are shared out."""

from __future__ import annotations

from math import exp

import pytest
import torch

from nbkv.families.blend.variants import Variant, disorder, fix_overhead, focused, scaled, split
from nbkv.kv import KV, Space
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk
from nbkv.strategy import parse

A, B, C = (1, 2), (3,), (4, 5, 6)
OWN = (7, 8)


def variant(inter, intra, before, uses=1):
    kv = KV((torch.zeros(1, 2, 4),), (torch.zeros(1, 2, 4),))
    table, own = torch.tensor(inter), torch.tensor(intra)
    space = Space("m", "float32", "default", "approx:cachecraft")
    return Variant(space=space, kv=kv, base=9, ids=OWN, before=before, inter=table, intra=own, uses=uses)


def test_order_penalty():
    assert disorder((A, B, C), (A, B, C)) == 0
    assert disorder((A, B, C), (C, B, A)) == 1
    assert disorder((A, B, C), (A, C, B)) == pytest.approx(1 / 3)
    assert disorder((A, B, C), (C, OWN, A)) == 1  # of two common ones
    assert disorder((A, B), (B, OWN)) == 0  # fewer than two
    assert disorder((), ()) == 0


def test_prefix_overlap():
    one = variant([[4.0, 1.0], [2.0, 1.0]], [3.0, 1.0], (A, B))

    assert one.overlap([A, B, C]) == 1
    assert one.overlap([A]) == pytest.approx(6 / 8)
    assert one.overlap([C, B]) == pytest.approx(2 / 8)
    assert one.overlap([]) == 0


def test_what_had_nothing_before_it_fits_only_where_nothing_is():
    one = variant([[], []], [1.0, 1.0], ())

    assert one.overlap([]) == 1
    assert one.overlap([A]) == 0
    assert one.cci == 0.5


def test_contextualisation():
    one = variant([[4.0, 1.0], [2.0, 1.0]], [3.0, 1.0], (A, B))
    outside, inside = 6 / (2 * 2) + 2 / (2 * 1), 4 / 2**2

    assert one.cci == pytest.approx(1 / (1 + exp(-outside / inside)))


def test_fix_overhead():
    assert fix_overhead(1.0, 0.8, 0.25) == pytest.approx(0.6)
    assert fix_overhead(3.0, 0.8, 0.25) == 1
    assert fix_overhead(1.0, 0.8, 1.0) == 0
    one = variant([[4.0, 1.0], [2.0, 1.0]], [3.0, 1.0], (A, B))
    # beta 1, but the two stand the other way round: nothing of it counts
    assert parse("cachecraft(alpha=0.5)").need(one, [B, A]) == pytest.approx(0.5 * one.cci)
    assert parse("cachecraft").need(one, [A]) == pytest.approx(one.cci * (1 - 6 / 8))


@pytest.mark.parametrize(
    ("attention", "expected"),
    [([0.1, 0.9, 0.2], {1}), ([0.8, 0.1, 0.7], {0, 2}), ([0.5, 0.5], {0, 1}), ([3.0, 2.0, 1.0], {0}), ([0.4], {0})],
)
def test_chunks_above_the_widest_gap_are_in_focus(attention, expected):
    assert focused(attention) == expected


@pytest.mark.parametrize(
    ("needs", "lengths", "room", "expected"),
    [
        ([0.5, 0.25], [10, 20], 6, [3, 3]),
        ([0.9, 0.1], [4, 20], 10, [4, 6]),
        ([0.0, 0.0], [5, 15], 8, [2, 6]),
        ([0.0, 0.5], [8, 4], 6, [2, 4]),
        ([0.3, 0.3], [5, 5], 99, [5, 5]),
        ([], [], 0, []),
    ],
)
def test_needs_scaled_to_a_budget(needs, lengths, room, expected):
    assert scaled(needs, lengths, room) == expected


def test_parts_of_a_prompt(session_of, words):
    session = session_of()
    one, two = session.chunk(words(3, seed=1), name="one"), session.chunk(words(2, seed=2), name="two")
    parts = split(session._prompt(["w5 w6", one, two, "w7", one]))

    assert [tuple(part.span) for part in parts] == [(1, 3), (3, 6), (6, 8), (8, 9), (9, 12)]
    assert [part.ids for part in parts[1::3]] == [one.token_ids] * 2


@pytest.mark.parametrize(("sink", "first"), [((0,), 1), ((0, 5, 6), 1), ((), 0), ((9,), 0), ((0, 4, 4, 7), 3)])
def test_as_much_of_the_sink_as_the_prompt_begins_with_is_no_part(sink, first):
    chunk = Chunk(name="c", text="", token_ids=(7, 8), sink=sink, model="m")
    parts = split(Prompt((0, 4, 4, 7, 8, 3), ((chunk, 3, 5),)))

    assert parts[0].span.start == first
    assert parts[-2].ids == (7, 8)
