"""Anchors count their bytes, know what stood behind them, and tell tokens apart by values of the middle layer."""

from __future__ import annotations

import pytest
import torch
from anchors_by_hand import anchor

from nbkv.families.agents.anchors import marks, waiting
from nbkv.kv import KV
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk


@pytest.mark.parametrize(
    ("behind", "ids", "shared"),
    [((1, 2, 3), (1, 2, 3), 3), ((1, 2, 3), (1, 2, 9, 3), 2), ((1, 2), (1, 2, 3), 2), ((1,), (2,), 0), ((), (1,), 0)],
)
def test_what_stood_behind_is_shared_from_its_beginning(behind, ids, shared):
    assert anchor([5], behind_ids=behind).shared_behind(ids) == shared


def test_all_bytes_count():
    one = anchor([1, 2, 3], behind_ids=(4, 5), place=((0, 7), ()))
    floats = 2 * 3 + 2 * 2 + 3 * 32  # offsets, text behind, marks

    assert one.nbytes == 4 * floats + 4 * (3 + 2 + 2)
    assert anchor([1, 2, 3], heldout=torch.zeros(2, 1, 3, dtype=torch.float64)).nbytes == 4 * (6 + 96 + 1 + 3) + 48


def test_marks_are_values_of_the_middle_layer():
    layers = tuple(torch.full((2, 3, 4), float(layer)) for layer in range(6))
    assert marks(KV(layers, layers)).tolist() == [[3.0] * 8] * 3


def test_layers_that_share_kv_have_no_marks():
    layers = tuple(torch.full((1 if layer < 2 else 0, 3, 4), float(layer)) for layer in range(8))
    assert marks(KV(layers, layers)).tolist() == [[1.0] * 4] * 3


@pytest.mark.parametrize(
    ("known", "starts"), [(0, [2, 8]), (4, [2, 8]), (5, [2, 8]), (7, [2, 8]), (8, [8]), (10, [8]), (11, []), (14, [])]
)
def test_slots_wait_behind_what_is_known_exactly(known, starts):
    chunk = Chunk(name="c", text="", token_ids=(1, 2, 3), sink=(), model="")
    prompt = Prompt(tuple(range(14)), ((chunk, 2, 5), (chunk, 8, 11)))

    assert [slot.span.start for slot in waiting(prompt, known)] == starts
