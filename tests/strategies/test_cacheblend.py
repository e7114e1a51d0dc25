"""What a strategy measured of each token's KV reaches the Result."""

import numpy as np
import pytest

import nbkv
from nbkv.result import Provenance


@pytest.fixture(scope="module")
def asked():
    """Return a session, a chunk and a prompt that has it behind other text."""
    with nbkv.load("tiny") as session:
        notes = session.chunk("Nina pays in krona . The lamp cost her 48 . Omar keeps the blue box .", name="notes")
        yield session, ["Before the notes come these words . ", notes, "Who pays ?"]


def test_the_tokens_that_deviate_most_are_those_run_again(asked):
    session, prompt = asked
    result = session.generate(prompt, strategy="cacheblend(budget=0.3)", max_new_tokens=1)
    ((_, start, stop),) = result.chunks
    known = np.isfinite(result.deviation)
    assert known[start:stop].all()
    assert not known[:start].any()
    assert not known[stop:].any()
    again = result.provenance[start:stop] == Provenance.RECOMPUTED
    deviation = result.deviation[start:stop]
    assert again.any()
    assert deviation[again].min() >= deviation[~again].max()


def test_what_nobody_compared_is_not_known(asked):
    session, prompt = asked
    assert session.generate(prompt, strategy="full", max_new_tokens=1).deviation is None
    assert session.generate(prompt, strategy="epic", max_new_tokens=1).deviation is None
