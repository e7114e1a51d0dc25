"""Full's tokens forced: in one pass where a strategy decodes as the model does, else step by step; the same logits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import nbkv
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.strategies.prophet import Prophet
from nbkv.strategy import Strategy, parse

TOKENS = [5, 9, 17, 3, 40, 2]


@dataclass(kw_only=True, repr=False)
class Counting(Strategy):
    """Full, one step at a time."""

    @property
    def spec(self):
        return "counting"

    def step(self, token, at, prefilled, ctx, work=None):
        self.steps.append((token, at))
        return super().step(token, at, prefilled, ctx, work)

    def __post_init__(self):
        self.steps = []


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as opened:
        yield opened


def logits(session, strategy, prompt):
    run = RequestRun(session._open().for_request(), strategy, session._prompt(prompt), Sampling(max_new_tokens=1))
    return follow(run, TOKENS)


def test_one_pass_is_step_by_step(session):
    prompt = "Anna bought a lamp in March ."
    stepwise = Counting()
    slow = logits(session, stepwise, prompt)
    length = len(session._prompt(prompt).ids)

    assert stepwise.steps == [(token, length + count) for count, token in enumerate(TOKENS[:-1])]
    assert slow.shape[0] == len(TOKENS)
    torch.testing.assert_close(logits(session, parse("full"), prompt), slow, atol=1e-4, rtol=1e-4)


def test_who_decodes_plainly():
    assert parse("full").decodes_plainly
    assert parse("prefix").decodes_plainly
    assert Prophet().decodes_plainly
    assert not Counting().decodes_plainly
    assert not parse("h2o").decodes_plainly
    assert not parse("residual").decodes_plainly
