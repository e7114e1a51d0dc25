"""What is EPIC's own: the first tokens of each chunk, by number or by share."""

from __future__ import annotations

import pytest

from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategy import parse


def recomputed(session, prompt, spec):
    result = session.generate(prompt, strategy=spec, max_new_tokens=1)
    return [int(row) for row in (result.provenance == Provenance.RECOMPUTED).nonzero()[0]]


def test_the_first_tokens_of_each_chunk_but_one_at_the_beginning(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    question = words(4, seed=9)

    assert recomputed(session, [a, b, question], "epic(first_k=3)") == [21, 22, 23]
    assert recomputed(session, ["w1", a, b, question], "epic") == [*range(2, 18), *range(22, 38)]
    assert recomputed(session, ["w1", a, b, question], "epic(budget=0.25)") == [*range(2, 7), *range(22, 27)]


@pytest.mark.parametrize("first_k", [0, 4, 16])
def test_a_number_and_a_share_exclude_each_other(first_k):
    with pytest.raises(BadOption, match="epic takes first_k or budget, not both"):
        parse(f"epic(first_k={first_k}, budget=0.2)")


@pytest.mark.parametrize("spec", ["first_k=-1", "first_k=1.5", "budget=2"])
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"epic({spec})")
