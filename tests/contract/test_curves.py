"""More budget, less distance: the curves of every chunk strategy on the bundled reader."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

import nbkv
from nbkv.families.blend.base import Blend
from nbkv.fidelity import kl
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.registry import strategies as registry
from nbkv.strategy import parse
from nbkv.tasks import ledger

BUDGETED = [
    name
    for name in registry.names()
    if issubclass(registry.get(name), Blend)
    and any(field.name == "budget" for field in dataclasses.fields(registry.get(name)))
]
STEPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as session:
        yield session


@pytest.fixture(scope="module")
def prompts(session):
    items = ledger(seed=31, n=24, chunks=6, distance=0)
    return [
        [*(session.chunk(text, name=f"{at}.{i}", sink="bos") for i, text in enumerate(item.chunks)), item.question]
        for at, item in enumerate(items)
    ]


def distances(session, prompts, strategy):
    """KL at the first answer token, where the amount stands, and at the second, where its currency does."""
    ctx, found = session._open().for_request(), []
    for prompt in prompts:
        built = session._prompt(prompt)
        run = RequestRun(ctx, parse("full"), built, Sampling(max_new_tokens=2))
        amount = int(follow(run, [0])[0].argmax())
        longer = dataclasses.replace(built, ids=(*built.ids, amount))
        for asked in (built, longer):
            wanted = Sampling(max_new_tokens=1)
            full, own = (follow(RequestRun(ctx, each, asked, wanted), [0])[0] for each in (parse("full"), strategy))
            found.append(kl(full, own))
    return np.array(found)


@pytest.mark.parametrize("name", BUDGETED)
def test_budget_brings_the_distance_down(session, prompts, name):
    none, some, every = (
        distances(session, prompts, dataclasses.replace(parse(name), budget=budget)) for budget in (0.0, 0.4, 1.0)
    )

    assert every.max() < 1e-6
    assert some.mean() < none.mean()


def test_ours_goes_down_step_by_step(session, prompts):
    curve = [distances(session, prompts, parse(f"blend({budget})")) for budget in STEPS]
    draw = np.random.default_rng(0)
    for before, after in pairwise(curve):
        drawn = draw.choice(after - before, (1000, len(before))).mean(axis=1)
        assert float(np.quantile(drawn, 0.025)) <= 0.0
    assert curve[-1].mean() < 0.05 * curve[0].mean()
