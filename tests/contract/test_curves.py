"""More budget, less distance: the curves of every chunk strategy on the bundled reader."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

import nbkv
from nbkv.families.blend.base import Blend
from nbkv.families.blend.harvest import Harvest
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


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as session:
        yield session


@pytest.fixture(scope="module")
def prompts(session):
    items = ledger(seed=31, n=16, chunks=6, distance=0)
    return [
        [*(session.chunk(text, name=f"{at}.{i}", sink="bos") for i, text in enumerate(item.chunks)), item.question]
        for at, item in enumerate(items)
    ]


def logits(session, strategy, asked):
    run = RequestRun(session._open().for_request(), strategy, asked, Sampling(max_new_tokens=1))
    return follow(run, [0])[0]


@pytest.fixture(scope="module")
def references(session, prompts):
    """Prompts up to the first answer token, where the amount stands, and to the second, where its currency does.

    Each with full's logits.
    """
    found = []
    for prompt in prompts:
        built = session._prompt(prompt)
        amount = logits(session, parse("full"), built)
        longer = dataclasses.replace(built, ids=(*built.ids, int(amount.argmax())))
        found += [(built, amount), (longer, logits(session, parse("full"), longer))]
    return found


@pytest.fixture(scope="module")
def distances(session, references):
    """Give a function for KL at each of these tokens under a strategy, computed once."""

    @functools.cache
    def of(spec):
        return np.array([kl(full, logits(session, parse(spec), asked)) for asked, full in references])

    return of


@pytest.mark.parametrize("name", BUDGETED)
def test_budget_brings_the_distance_down(session, prompts, distances, name):
    if issubclass(registry.get(name), Harvest):  # it reuses what an earlier prompt had of the chunks
        for *chunks, question in prompts:
            session.generate([*chunks[::-1], question], strategy=name, max_new_tokens=1)
    none, some, every = (distances(dataclasses.replace(parse(name), budget=budget).spec) for budget in (0.0, 0.4, 1.0))

    assert every.max() < 1e-6
    assert some.mean() < none.mean()
