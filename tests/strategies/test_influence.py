"""Influence: which rows it takes, that chunks behind a context are good beginnings too, and what it costs."""

from __future__ import annotations

import torch

import nbkv
from nbkv.families.blend.influence import influence
from nbkv.models.attention.layer import Attended
from nbkv.result import Provenance
from nbkv.session.encoding.sinks import PASSAGES
from nbkv.strategy import parse


def attended(weights, values):
    """Return what was attended to with ``weights`` ``[H_q, n, T]`` and ``values`` ``[H_v, T, D]``."""
    return Attended(0, torch.arange(weights.shape[1]), weights, values, torch.zeros(0))


def test_it_is_what_blend_names():
    assert parse("blend") == parse("influence")
    assert parse("blend(0.1)").spec == "influence(budget=0.1)"


def test_a_sink_without_a_value_counts_for_nothing():
    weights = torch.tensor([[[0.9, 0.08, 0.02]]])
    values = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]])

    scores = influence(attended(weights, values))

    assert scores.tolist() == [0.0, weights[0, 0, 1] * 5, weights[0, 0, 2] * 10]


def test_query_heads_are_weighed_with_the_value_head_they_share():
    weights, values = torch.rand(4, 3, 5), torch.randn(2, 5, 8)

    each = [(weights[head].sum(0) * values[head // 2].norm(dim=-1)) for head in range(4)]

    torch.testing.assert_close(influence(attended(weights, values)), sum(each))


def test_it_takes_the_rows_with_the_highest_scores(session_of, words):
    session = session_of("llama")
    one, two = session.chunk(words(30, seed=1), name="one"), session.chunk(words(30, seed=2), name="two")
    prompt = [words(3, seed=3), one, two, words(6, seed=4)]

    result = session.generate(prompt, strategy="influence(budget=0.2)", max_new_tokens=2)

    assert int((result.provenance == Provenance.RECOMPUTED).sum()) == 12
    assert result.compute.select > 0
    assert result.lineage == "approx:influence"


def test_with_no_budget_it_runs_no_pass_to_select(session_of, words):
    session = session_of("llama")
    chunk = session.chunk(words(30, seed=1), name="one")

    result = session.generate([words(3), chunk, words(4)], strategy="influence(budget=0)", max_new_tokens=1)

    assert result.compute.select == 0
    assert result.tokens.recomputed == 0


def test_a_chunk_behind_a_context_is_a_prefix_where_it_stands_first():
    with nbkv.load("tiny") as session:
        chunk = session.chunk("Nina pays in krona . The lamp cost her 48 .", name="notes", sink="context")
        result = session.generate([chunk, "Who pays ?"], strategy="influence", max_new_tokens=1)

    assert (result.provenance[: len(chunk)] == Provenance.PREFIX).sum() >= len(chunk) - 1
    assert len(chunk.sink) > len(PASSAGES.split())
