"""A batch on a real model and real words: the answers of full, one by one; skipped where the model is not."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.errors import LoadError

TEXT = (
    "The mill stands where the river leaves the hills. It was built by two sisters, Anna and Clara, who had come from "
    "the coast. Anna kept the books; Clara kept the wheel. In the third year a flood took the bridge: that winter the "
    "village could be reached by boat only. "
)
QUESTIONS = ("Who kept the books?", "What took the bridge, and when?", "Where does the mill stand?")


def test_answers_are_those_of_full():
    try:
        session = nbkv.load("smollm2")
    except LoadError as error:
        pytest.skip(f"no smollm2 here: {error}")
    with session:
        told = [[{"role": "user", "content": TEXT + question}] for question in QUESTIONS]
        prompts = [*told, "The capital of France is", told[0]]
        results = session.generate_batch(prompts, max_new_tokens=8, progress=False)
        expected = [session.generate(prompt, strategy="full", max_new_tokens=8) for prompt in prompts]
        assert [got.token_ids for got in results] == [want.token_ids for want in expected]
        assert results.figures.groups[0] == 4
        assert "Paris" in results[3].text
