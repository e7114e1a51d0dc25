from __future__ import annotations

import numpy as np
import pytest

from nbkv.result import Compute, Provenance, Result, Timing


def result(provenance, **changes):
    n = len(provenance)
    values = {
        "text": "an answer",
        "token_ids": (7, 8),
        "prompt_ids": tuple(range(n)),
        "finish_reason": "stop",
        "strategy": "prefix",
        "model": "m",
        "fingerprint": "f",
        "timing": Timing(ttft_s=0.1, total_s=0.2),
        "provenance": np.array(provenance, dtype=np.uint8),
        "kept": np.ones(n, dtype=bool),
        "compute": Compute(share=0.5, rows=0.5),
    }
    return Result(**(values | changes))


def test_counts_are_sums_over_provenance():
    tokens = result([0, 1, 1, 2, 3, 4, 4, 4]).tokens

    assert (tokens.prompt, tokens.reused, tokens.recomputed, tokens.fresh) == (8, 4, 3, 1)
    assert result([0, 1, 1, 2, 3, 4, 4, 4]).hit_rate == 0.5
    assert result([]).hit_rate == 0.0


def test_dropped_tokens_are_spans():
    kept = np.array([True, False, False, True])

    assert result([0] * 4, kept=kept).to_dict()["dropped"] == [[1, 3]]
    assert result([0] * 4).to_dict()["dropped"] == []


def test_the_answer_chunk_keeps_ids_lineage_and_model():
    chunk = result([0, 0], lineage="approx:x").chunk("answer")

    assert chunk.token_ids == (7, 8)
    assert chunk.lineage == "approx:x"
    assert chunk.model == "f"
    assert len(chunk) == 2


@pytest.mark.parametrize("source", list(Provenance))
def test_sources_are_named_in_the_data(source):
    assert result([int(source)] * 3).to_dict()["provenance"] == [{"source": source.name, "start": 0, "stop": 3}]
