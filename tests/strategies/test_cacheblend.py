"""What is CacheBlend's own: where deviation is measured, of what, and how rows are filtered by it."""

import numpy as np
import pytest

import nbkv
from nbkv.context import Request
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.result import Provenance
from nbkv.strategy import parse


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


def prefilled(session, prompt, spec):
    request, ctx = Request(session._prompt(prompt), 1, keep=False), session._ctx.for_request()
    return parse(spec).prefill(request, ctx)


def moved(session, prompt, layer, side):
    """Return how far the chunk's K or V in ``layer`` are from full's, squared, by token."""
    naive, full = (prefilled(session, prompt, spec).cache.read(9, 39) for spec in ("epic(first_k=0)", "full"))
    one, other = (getattr(each, side)[layer].float() for each in (naive, full))
    return (one - other).square().sum(dim=(0, 2))


@pytest.fixture
def behind(session_of, words):
    session = session_of()
    chunk = session.chunk(words(30, seed=1), name="c")
    return session, [words(8, seed=2), chunk, words(5, seed=3)]


def chosen(session, prompt, spec):
    return (prefilled(session, prompt, spec).provenance[9:39] == Provenance.RECOMPUTED).nonzero()[0].tolist()


@pytest.mark.parametrize(
    ("spec", "sides"), [("", ["values"]), ("deviation='k'", ["keys"]), ("deviation='kv'", ["keys", "values"])]
)
def test_deviation_is_of_values_unless_asked_otherwise(behind, spec, sides):
    session, prompt = behind
    scores = sum(moved(session, prompt, 1, side) for side in sides)

    assert parse("cacheblend").deviation == "v"
    assert chosen(session, prompt, f"cacheblend({spec})") == sorted(scores.topk(5).indices.tolist())


def test_a_gradual_filter_measures_in_every_layer(behind, monkeypatch):
    session, prompt = behind
    from nbkv.families.blend.partial import PartialPrefill

    ran, own = [], PartialPrefill.deviation

    def measured(self, layer, *args):
        ran.append((layer, int((self.running >= 9).sum()) - 5))
        return own(self, layer, *args)

    monkeypatch.setattr(PartialPrefill, "deviation", measured)
    left = chosen(session, prompt, "cacheblend(budget=0.3, filtering='gradual')")

    # of 30 rows all are compared in layer 1, 0.4 of them in layer 2, and 0.2 are left
    assert ran == [(1, 30), (2, 12)]
    assert len(left) == 6
    first = moved(session, prompt, 1, "values").topk(12).indices.tolist()
    assert set(left) <= set(first)
    ran.clear()
    chosen(session, prompt, "cacheblend(budget=0.3, check_layers=(0,), filtering='gradual')")
    assert ran == [(0, 30), (1, 12), (2, 9)]


def test_a_gradual_filter_costs_what_its_shares_say(behind):
    session, prompt = behind
    made = prefilled(session, prompt, "cacheblend(budget=0.3, filtering='gradual')")

    # 43 rows in layers 0 and 1, in which those beyond 12 + 13 make their K/V only; then 25; in the last layer 6 + 13
    assert made.select.token_layers + made.rows.token_layers == 2 * 43 + 25 + 19


@pytest.mark.parametrize("budget", [0.95, 1.0])
def test_shares_of_a_gradual_filter_stay_within_all_rows(behind, budget):
    session, prompt = behind
    assert len(chosen(session, prompt, f"cacheblend(budget={budget}, filtering='gradual')")) >= 27


def test_check_layers_that_the_model_has_not(session_of, words):
    session = session_of()
    for layers in ("(3,)", "(1, 9)"):
        with pytest.raises(BadOption, match=r"has 4 layers, and a check layer lies before the last one \(0 to 2\)"):
            session.generate(words(5), strategy=f"cacheblend(check_layers={layers})")


@pytest.mark.parametrize(
    "spec", ["filtering='x'", "filtering='gradual', check_layers=(1, 2)", "deviation='q'", "check_layers=()"]
)
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"cacheblend({spec})")


def test_layers_that_share_kv_cannot_be_filtered_gradually(session_of, words):
    with pytest.raises(UnsupportedModel, match="its layers share K/V"):
        session_of("gemma3n").generate(words(5), strategy="cacheblend(filtering='gradual')")
