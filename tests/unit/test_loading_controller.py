"""CacheBlend's loading controller: what it loads and how much is recomputed, by planted costs and rates; no clock."""

from __future__ import annotations

import pytest

from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.events import Fallback
from nbkv.families.routing import cost_model
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.loading_controller import LoadingController
from nbkv.result import Provenance
from nbkv.strategy import parse

COSTS = CostModel(overhead=1e-3, row=1e-3, pair=0.0)  # a row takes a millisecond, whatever it attends to


@pytest.fixture(autouse=True)
def _costs(monkeypatch):
    monkeypatch.setattr(cost_model, "measure", lambda adapter: COSTS)
    monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)


@pytest.fixture
def asked(session_of, words, tmp_path):
    """Give a session whose chunk ``near`` is in memory, and ``far`` on disk alone, and a prompt with both."""
    session = session_of(store=f"memory+disk:{tmp_path}")
    far = session.chunk(words(60, seed=2), name="far", sink="bos")
    session.store.flush()
    session.store.clear()
    near = session.chunk(words(60, seed=1), name="near", sink="bos")
    session.heard = []
    session._ctx.bus.add(session.heard.append)
    return session, [words(3, seed=3), near, far, words(4, seed=9)]


def at(session, share):
    """Have the disk be so fast that one token arrives while ``share`` of a row is computed."""
    session.store.below[0].rate = session.adapter.token_bytes / (share * COSTS.row)


def planned(session, prompt, budget, least=0.15, rate=None):
    request = Request(session._prompt(prompt), 1, keep=False)
    return LoadingController(session._ctx.for_request(), rate, least).plan(request, budget)


@pytest.mark.parametrize(
    ("share", "asked_for", "budget"),
    [(0.8, 0.15, 0.4), (0.8, 0.6, 0.4), (0.1, 0.6, 0.15), (0.1, 0.15, 0.15), (0.1, 0.02, 0.05), (0.02, 0.02, 0.02)],
)
def test_the_budget_is_what_takes_as_long_as_loading_but_at_least_the_least(asked, share, asked_for, budget):
    """Half of the rows come from disk: the balance is half the share of one."""
    session, prompt = asked
    at(session, share)
    plan = planned(session, prompt, asked_for)
    assert plan.budget == pytest.approx(budget)
    assert plan.load_s == pytest.approx(60 * share * COSTS.row)
    assert [chunk.name for chunk, _, _ in plan.request.prompt.chunks] == ["near", "far"]
    assert plan.declined is None


def test_a_chunk_that_loads_slower_than_it_is_computed_is_not_loaded(asked):
    session, prompt = asked
    at(session, 1.01)
    plan = planned(session, prompt, 0.3)
    assert [chunk.name for chunk, _, _ in plan.request.prompt.chunks] == ["near"]
    assert plan.budget == 0.15  # what is left is in memory
    assert plan.declined.seconds == pytest.approx(60 * COSTS.row * -0.01)
    at(session, 0.99)
    assert len(planned(session, prompt, 0.3).request.prompt.chunks) == 2


def test_a_tier_that_was_never_read_is_loaded_at_the_budget_asked_for_and_known_then(asked):
    session, prompt = asked
    assert session.store.below[0].rate == 0
    result = session.generate(prompt, strategy="cacheblend(budget=0.4, link='store')", max_new_tokens=1)
    assert "how fast from disk is was not known before this request: budget 0.4" in result.notes[-1]
    assert session.store.below[0].rate > 0
    again = session.generate(prompt, strategy="cacheblend(budget=0.4, link='store')", max_new_tokens=1)
    assert "loading from memory leaves time to recompute 0 of the rows: budget 0.15" in again.notes[-1]
    assert again.tokens.recomputed < result.tokens.recomputed


@pytest.mark.parametrize("share", [1.5, 30.0])
def test_what_is_computed_instead_is_told_by_note_event_and_miss(asked, share):
    session, prompt = asked
    at(session, share)
    result = session.generate(prompt, strategy="cacheblend(link='store')", max_new_tokens=2)
    told = [note for note in result.notes if "not loaded" in note]
    assert len(told) == 1
    assert "1 chunk of 60 tokens computed, not loaded: loading from disk takes longer than computing" in told[0]
    assert told[0] in [event.why for event in session.heard if isinstance(event, Fallback)]
    (_, near, stop), (_, far, end) = result.chunks
    assert {Provenance.CHUNK, Provenance.RECOMPUTED} >= set(result.provenance[near:stop])
    assert set(result.provenance[far:end]) == {Provenance.FRESH}
    assert "turned down: loading from disk" in str(result.why)


@pytest.mark.parametrize("pair", [0.0, 1e-6, 1e-4])
def test_a_row_costs_its_part_of_a_whole_prefill(asked, monkeypatch, pair):
    known = CostModel(overhead=1.0, row=1e-3, pair=pair)
    monkeypatch.setattr("nbkv.families.routing.loading_controller.costs", lambda ctx: known)
    session, prompt = asked
    plan = planned(session, prompt, 0.3, rate=1e15)
    n = len(plan.request.ids)
    assert plan.row_s * n == pytest.approx(known.run(n, n) - known.overhead)


def test_nothing_loaded_is_full(asked):
    session, prompt = asked
    crawling = session.generate(prompt, strategy="cacheblend(link=1)", max_new_tokens=4)
    assert "2 chunks of 120 tokens computed" in crawling.notes[-1]
    assert crawling.token_ids == session.generate(prompt, strategy="full", max_new_tokens=4).token_ids
    assert Provenance.CHUNK not in crawling.provenance


def test_several_tiers_are_planned_each_by_its_own_rate(session_of, words, tmp_path):
    store = f"memory+disk:{tmp_path / 'a'}+file://{tmp_path / 'b'}"
    session = session_of(store=store)
    chunks = [session.chunk(words(60, seed=n), name=f"c{n}", sink="bos") for n in (1, 2)]
    session.store.flush()
    disk, remote = session.store.below
    path = (*chunks[0].sink, *chunks[0].token_ids)
    for key in list(disk.keys()):
        entry = disk.get(key)
        if tuple(entry.header.ids[: len(path)]) == path:
            disk.drop(key)  # the first chunk is now on the slow tier alone
    session.store.clear()
    row_bytes = session.adapter.token_bytes / COSTS.row
    disk.rate, remote.rate = 10 * row_bytes, 0.5 * row_bytes
    plan = planned(session, [words(3, seed=3), *chunks, words(4, seed=9)], 0.3)
    assert [chunk.name for chunk, _, _ in plan.request.prompt.chunks] == ["c2"]
    assert plan.budget == 0.15
    remote.rate = 2 * row_bytes
    plan = planned(session, [words(3, seed=3), *chunks, words(4, seed=9)], 0.2)
    assert plan.budget == pytest.approx((0.5 + 0.1) / 2)


@pytest.mark.parametrize("option", ["link='disk'", "link=0", "least=1.5", "least='x'"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(BadOption, match="is not accepted"):
        parse(f"cacheblend({option})")


def test_full_budget_is_not_lowered(asked):
    session, prompt = asked
    whole = parse("cacheblend(link='store')").at_full_budget()
    result = session.generate(prompt, strategy=whole, max_new_tokens=4)
    assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=4).token_ids
