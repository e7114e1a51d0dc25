"""The gate lets a text through that has anchors, is like some more than others, and did no harm where it was tried."""

from __future__ import annotations

from math import log2

import pytest
import torch
from anchors_by_hand import anchor, kv

from nbkv.families.agents.anchors import Slot
from nbkv.families.agents.gate import Gate
from nbkv.families.agents.offsets import Alignment, Neighbours, comparison
from nbkv.kv import Span
from nbkv.result import Chunk

ALIGNMENT = Alignment("token", 0.05)


def slot(length=4):
    chunk = Chunk(name="plan", text="", token_ids=(1,) * length, sink=(), model="")
    return Slot(chunk, Span(3, 3 + length), ((0,),), Span(3 + length, 3 + length))


def near(*shares):
    weights = torch.tensor([shares])
    return Neighbours(tuple(anchor([7]) for _ in shares), torch.zeros(1, len(shares), dtype=torch.long), weights)


def known(*kls, age=0):
    return [anchor([1, 2, 3, 4], kl=kl, age=age) for kl in kls]


@pytest.mark.parametrize(("lengths", "why"), [((), "0 of 2"), ((4,), "1 of 2"), ((4, 1, 1), "1 of 2")])
def test_two_anchors_long_enough_or_none(lengths, why):
    refused = Gate(1.0, None, ALIGNMENT).unknown(slot(), [anchor([1] * n) for n in lengths])

    assert why in refused.why
    assert (refused.start, refused.stop, refused.accepted) == (3, 7, False)
    assert Gate(1.0, None, ALIGNMENT).unknown(slot(), [anchor([1] * n) for n in (4, 2)]) is None


@pytest.mark.parametrize(
    ("gamma", "shares", "accepted"),
    [
        (1.0, (0.5, 0.5), False),
        (1.0, (0.6, 0.4), True),
        (0.5, (0.6, 0.4), False),
        (0.5, (0.95, 0.05), True),
        (0.1, (1.0, 0.0), True),
        (0.0, (1.0, 0.0), False),
    ],
)
def test_the_entropy_is_below_gamma_times_that_of_even_weights(gamma, shares, accepted):
    found = Gate(gamma, None, ALIGNMENT).decide(slot(), near(*shares), known(None, None))

    assert found.accepted is accepted
    assert found.bound == gamma * log2(2)
    assert found.measure is False
    assert ("entropy" in found.why) is not accepted


@pytest.mark.parametrize(
    ("kls", "age", "accepted", "measure"),
    [
        ((None, None), 0, False, True),
        ((None, 0.01), 0, False, True),
        ((0.01, 0.01), 0, True, False),
        ((0.01, 0.01), 16, False, True),
        ((0.2, 0.2), 0, False, False),
        ((0.2, 0.2, None, None, None, None), 0, False, True),
        ((9.0, *[0.01] * 8), 0, True, False),
    ],
)
def test_reuse_is_measured_and_bounded(kls, age, accepted, measure):
    found = Gate(0.9, 0.1, ALIGNMENT).decide(slot(), near(0.99, 0.01), known(*kls, age=age))

    assert (found.accepted, found.measure) == (accepted, measure)


@pytest.mark.parametrize(
    ("changed", "accepted", "told"),
    [
        ((0.0, 0.0), True, ""),
        ((0.05, 0.1), True, ""),
        ((0.0, 0.5), False, "1 of 2 answers"),
        ((0.5, 2.0, 0.0), False, "2 of 3 answers"),
        ((3.0, *[0.0] * 8), True, ""),
    ],
)
def test_one_wrong_word_is_enough(changed, accepted, told):
    """A small mean KL may hide a token that would have been another one."""
    there = [anchor([1, 2, 3, 4], kl=0.02, changed=each) for each in changed]
    found = Gate(0.9, 0.1, ALIGNMENT).decide(slot(), near(0.99, 0.01), there)

    assert (found.accepted, found.measure) == (accepted, False)
    assert told in found.why


@pytest.mark.parametrize(
    ("least", "pairs", "accepted"),
    [
        (0.0, [((1.0, 0.0), (1.0, 0.1))] * 2, True),
        (0.0, [((1.0, 0.0), (0.0, 1.0))] * 3, False),
        (0.0, [((1.0, 0.0), (1.0, 0.0)), ((1.0, 0.0), (-1.0, 0.0))], False),
        (0.9, [((1.0, 0.0), (1.0, 1.0))] * 2, False),
        (0.0, [((1.0, 0.0), (1.0, 0.1))], False),
        (None, [((1.0, 0.0), (0.0, 1.0))] * 3, True),
    ],
)
def test_offsets_that_others_do_not_explain_are_refused(least, pairs, accepted):
    compared = [anchor([1, 2, 3, 4], kl=0.01, heldout=comparison(kv(true), kv(guess))) for true, guess in pairs]
    there = [*compared, *known(0.01)]
    found = Gate(0.9, 0.1, ALIGNMENT, least).decide(slot(), near(0.99, 0.01), there)

    assert (found.accepted, found.measure) == (accepted, False)
    assert ("compared" in found.why) == (least is not None and len(pairs) == 1)
    assert ("explained" in found.why) == (not accepted and len(pairs) > 1)


def test_a_text_the_gate_does_not_know_tells_no_kl():
    found = Gate(0.1, 0.1, ALIGNMENT).decide(slot(), near(0.5, 0.5), known(None, None))

    assert not found.measure


def test_it_says_what_it_found():
    through = str(Gate(0.9, 0.1, ALIGNMENT).decide(slot(), near(0.99, 0.01), known(0.01, 0.03)))
    refused = str(Gate(0.9, 0.1, ALIGNMENT).decide(slot(), near(0.99, 0.01), known(0.3, 0.3)))

    assert through == "plan by 2 anchors, entropy 0.08 below 0.90 bits, KL 0.02"
    assert refused == "plan: the KL of reuse measured at its place is 0.3, above 0.1"
