"""A plan knows which slots keep a prompt from being reused, and whether it runs in full to measure reuse only."""

from __future__ import annotations

import pytest

from nbkv.families.agents.gate import GateDecision
from nbkv.families.agents.serving_plan import ServingPlan

THROUGH, MEASURED, REFUSED = (
    GateDecision("plan", 0, 4, 2),
    GateDecision("plan", 0, 4, 2, why="measured first", measure=True),
    GateDecision("plan", 0, 4, 2, why="entropy"),
)


@pytest.mark.parametrize(
    ("decisions", "placed", "refused", "measures"),
    [
        ((), 0, 0, False),
        ((THROUGH, THROUGH), 2, 0, False),
        ((THROUGH, MEASURED), 2, 1, True),
        ((MEASURED, REFUSED), 2, 2, True),
        ((REFUSED,), 1, 1, False),
        ((MEASURED, MEASURED), 1, 2, False),
    ],
)
def test_one_refusal_keeps_a_prompt_from_being_reused(decisions, placed, refused, measures):
    plan = ServingPlan(tuple(range(len(decisions))), decisions, tuple(range(placed)))

    assert len(plan.refused) == refused
    assert plan.measures is measures
