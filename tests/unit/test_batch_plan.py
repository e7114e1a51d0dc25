"""The plan of a batch: in which order groups run, what is about as long, and who cannot run with others."""

from __future__ import annotations

import pytest

from nbkv.context import Request
from nbkv.families.batch.plan import decode_heavy_first, planned
from nbkv.prompts.prompt import Prompt
from nbkv.strategy import RequestGroup


def requests(*prompts, new=4):
    return [Request(Prompt(tuple(prompt)), new) for prompt in prompts]


def plan(session, asked):
    return planned(asked, session._open().for_request(), 8, width=9, tokens=99, nbytes=10**6)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_groups_that_decode_most_for_what_they_prefill_come_first(first):
    asked = [Request(Prompt(tuple(range(30))), 8) for _ in range(6)]
    asked[2 * first] = asked[2 * first + 1] = Request(Prompt(tuple(range(30))), 64)
    groups = [RequestGroup(20, (2 * at, 2 * at + 1)) for at in range(3)]
    assert decode_heavy_first(groups, asked)[0] == groups[first]


def test_longer_prompts_of_a_group_begin_first(session_of):
    (group,) = plan(session_of(), requests(*([*range(20), *[9] * n] for n in (1, 7, 3)))).groups
    assert group == RequestGroup(20, (1, 2, 0))


def test_unshared_prompts_are_grouped_by_length(session_of):
    asked = requests(*([at + 1] * n for at, n in enumerate((60, 5, 58, 6, 4))))
    parts = {frozenset(group.members) for group in plan(session_of(), asked).groups}
    assert parts == {frozenset({0, 2}), frozenset({1, 3, 4})}


def test_what_is_stored_is_shared_by_one_prompt_alone(session_of):
    session = session_of(strategy="prefix")
    first = session.generate([" w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11"], max_new_tokens=1)
    asked = requests([*first.prompt_ids, 7, 8], [50] * 14)
    assert {group.members: group.shared for group in plan(session, asked).groups} == {(0,): 12, (1,): 0}


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3n"])
def test_where_sequences_cannot_share_passes_prompts_that_begin_alike_follow_each_other(session_of, family):
    found = plan(session_of(family), requests([1, 2, 3], [9, 8], [1, 2, 4], [9, 7]))
    assert found.alone == (0, 2, 3, 1)
    assert "one prompt after another" in found.why
    assert not found.groups


def test_prompts_beyond_the_trained_length_run_alone(make_model, tokenizer):
    import nbkv

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "original_max_position_embeddings": 40, "factor": 4.0}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=40)
    model.config.max_position_embeddings = 160
    with nbkv.load(model, tokenizer=tokenizer) as session:
        found = plan(session, requests([1] * 20, [2] * 37, [3] * 30))
    assert found.alone == (1,)
    assert "trained length" in found.why
