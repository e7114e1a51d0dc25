from __future__ import annotations

import math

import pytest
import torch

from nbkv.fidelity import kl, scaled_error, top1


def test_kl_is_the_textbook_sum_in_nats():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)

    assert kl(p.log(), q.log()) == pytest.approx(expected)
    assert kl(p.log() + 7, q.log() - 3) == pytest.approx(expected)
    assert kl(p.log(), p.log()) == 0.0
    assert kl(p.log(), q.log()) != pytest.approx(kl(q.log(), torch.tensor([0.1, 0.1, 0.8]).log()))


def test_kl_survives_impossible_tokens():
    full = torch.tensor([0.0, 0.0, -math.inf])

    assert kl(full, full) == 0.0
    assert kl(full, torch.tensor([0.0, -math.inf, 0.0])) == math.inf


def test_top1_counts_positions():
    assert top1([1, 2, 3, 4], [1, 9, 3, 9]) == 0.5
    assert top1([], []) == 1.0
    with pytest.raises(ValueError, match="equally many"):
        top1([1], [1, 2])


def test_an_error_is_scaled_by_what_was_expected_where_that_is_large():
    small, large = torch.tensor([0.5, -0.25]), torch.tensor([4.0, -8.0])

    assert scaled_error(small + 0.1, small) == pytest.approx(0.1, rel=1e-5)
    assert scaled_error(large + 0.1, large) == pytest.approx(0.1 / 8, rel=1e-5)
    assert scaled_error(large.bfloat16(), large) == 0.0
    assert scaled_error(torch.tensor([math.nan, 1.0]), small) == math.inf
    assert scaled_error(torch.tensor([math.inf, 1.0]), torch.tensor([math.inf, 1.0])) == math.inf


def test_fidelity_of_a_strategy_that_is_wrong_is_seen(session_of, words):
    """A strategy that drops the middle of the prompt must not look faithful."""
    from dataclasses import dataclass, replace

    from nbkv.strategy import Strategy

    @dataclass(kw_only=True, repr=False)
    class Forgetful(Strategy):
        def prefill(self, request, ctx):
            prompt = replace(request.prompt, ids=request.ids[:5] + request.ids[:5] + request.ids[10:])
            return super().prefill(replace(request, prompt=prompt), ctx)

    Forgetful.name = "forgetful"
    table = session_of().compare(words(40), [Forgetful()], repeat=1, max_new_tokens=4)

    assert table.to_frame()["strategy"].tolist() == ["full", "forgetful"]
    assert table.rows[0]["kl"] == 0
    assert table.rows[1]["kl"] > 1e-3
    assert table.rows[1]["top1"] < 1.0
