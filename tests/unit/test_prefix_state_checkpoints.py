"""Where a prompt is cut for checkpoints, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from nbkv.families.prefix import state_checkpoints


@dataclass(frozen=True)
class Found:
    """What a model's states are."""

    states: str
    state_bytes: int = 1_000


def lease(matched, branch):
    return SimpleNamespace(matched=matched, branch=branch)


PASSES, TOKENS = Found("passes"), Found("tokens")


@pytest.mark.parametrize(
    ("n", "limit", "step"),
    [(2_000, 2**30, 1024), (8_000, 16 * 3_000, 2048), (8_000, 16 * 1_000, 4096), (8_000, 16 * 999, 0)],
)
def test_segments_take_a_sixteenth_of_the_store(n, limit, step):
    assert state_checkpoints.segment(n, PASSES, limit) == step
    assert state_checkpoints.segment(n, TOKENS, limit) == 0


@pytest.mark.parametrize(
    ("n", "matched", "branch", "every", "stops"),
    [
        (100, 0, 0, 0, [99]),
        (100, 0, 60, 0, [60, 99]),
        (100, 50, 60, 0, [99]),  # ten tokens are not worth a checkpoint
        (100, 99, 99, 0, []),
        (100, 0, 99, 0, [99]),
        (100, 30, 30, 25, [50, 75, 99]),
        (1, 0, 0, 0, []),
    ],
)
def test_a_prompt_is_cut_before_its_last_token_where_it_parts_and_at_segments(n, matched, branch, every, stops):
    assert state_checkpoints.cuts(n, lease(matched, branch), PASSES, every) == stops


def test_token_by_token_no_more_is_run_than_is_saved():
    assert state_checkpoints.cuts(100, lease(0, 60), TOKENS, 25) == [60, 99]
    assert state_checkpoints.cuts(100, lease(0, 40), TOKENS, 25) == [99]
    assert (state_checkpoints.least(101, TOKENS), state_checkpoints.least(101, PASSES)) == (51, 0)
