from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import nbkv
from nbkv.fidelity import fidelity, kl, kl_rows, scaled_error


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


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float32).log()


def test_fidelity_is_measured_over_all_tokens_of_an_answer():
    full = logits([0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1])
    other = logits([0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1])
    found, each = fidelity(full, other, floor=1e-3), kl_rows(full, other)

    assert (found.kl, found.kl_max) == pytest.approx((float(each.mean()), float(each[1])))
    assert each[0] == 0.0 < each[2] < each[1]
    assert (found.top1, found.diverges_at, found.n) == (pytest.approx(2 / 3), 1, 3)
    assert found.floor == 1e-3


def test_an_answer_that_full_gives_too_diverges_nowhere():
    full = logits([0.5, 0.25, 0.25], [0.8, 0.1, 0.1])
    found = fidelity(full, full)

    assert (found.kl, found.kl_max, found.top1, found.diverges_at) == (0.0, 0.0, 1.0, None)


def test_an_error_after_the_first_token_is_seen(session_of, words):
    """Faithful in its prefill, wrong in every decoded token: the first token alone would not show it."""
    from nbkv.strategy import Strategy

    @dataclass(kw_only=True, repr=False)
    class Late(Strategy):
        def step(self, token, at, prefilled, ctx, work=None):
            return super().step(token, at, prefilled, ctx, work).roll(1)

    Late.name = "late"
    found = session_of().compare(words(40), [Late()], repeat=1, max_new_tokens=4).results[1].fidelity

    assert found.kl > 0.1
    assert found.diverges_at == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_noise_of_a_model_stands_beside(make_model, tokenizer, words, dtype):
    """Full split elsewhere differs from full by rounding, more so in half precision; no exact strategy is above it."""
    with nbkv.load(make_model("llama").to(getattr(torch, dtype)), tokenizer=tokenizer) as session:
        found = session.compare(words(40), ["prefix"], repeat=1, max_new_tokens=4).results[1].fidelity

    assert found.floor is not None
    assert found.floor < (1e-6 if dtype == "float32" else 1e-1)
    assert (found.floor > 1e-7) is (dtype == "bfloat16")


def test_an_error_is_scaled_by_what_was_expected_where_that_is_large():
    small, large = torch.tensor([0.5, -0.25]), torch.tensor([4.0, -8.0])

    assert scaled_error(small + 0.1, small) == pytest.approx(0.1, rel=1e-5)
    assert scaled_error(large + 0.1, large) == pytest.approx(0.1 / 8, rel=1e-5)
    assert scaled_error(large.bfloat16(), large) == 0.0
    assert scaled_error(torch.tensor([math.nan, 1.0]), small) == math.inf
    assert scaled_error(torch.tensor([math.inf, 1.0]), torch.tensor([math.inf, 1.0])) == math.inf


def test_fidelity_of_a_strategy_that_is_wrong_is_seen(session_of, words):
    """A strategy that drops the middle of the prompt must not look faithful."""
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
