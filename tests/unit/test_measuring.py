"""The faithfulness meter: what it measures, that it costs the answer nothing, and where its figures go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.events import Finished
from nbkv.families.routing.kl_history import kl_history
from nbkv.session import measure


@pytest.fixture
def blended(session_of, words):
    """Give a function that asks with a chunk behind other text, under a strategy that reuses it as it is."""
    session = session_of()

    def ask(**options):
        chunk = session.chunk(words(40, seed=1), name="c")
        options = {"strategy": "cacheblend(budget=0)", "max_new_tokens": 4} | options
        return session.generate([words(4), chunk, words(4, seed=2)], **options)

    return session, ask


def test_a_result_carries_its_distance_to_full(blended, words):
    session, ask = blended
    result = ask(fidelity=True)
    table = session.compare([words(4), session.chunks["c"], words(4, seed=2)], ["cacheblend(budget=0)"], repeat=1)

    assert result.fidelity.kl == pytest.approx(table.rows[1]["kl"], rel=1e-6)
    assert result.fidelity.kl > 1e-6
    assert result.fidelity.top1 == table.rows[1]["top1"]
    assert ask().fidelity is None
    assert "KL" in repr(result)
    assert result.to_dict()["fidelity"]["n"] == result.fidelity.n


@pytest.mark.parametrize("strategy", ["full", "prefix", "auto"])
def test_exact_answers_are_no_distance_away(session_of, words, strategy):
    result = session_of().generate(words(30), strategy=strategy, fidelity=True, max_new_tokens=4)

    assert result.fidelity.kl < 1e-6
    assert result.fidelity.top1 == 1.0


def test_a_stream_is_measured_after_its_text(session_of, words):
    stream = session_of().stream(words(30), fidelity=True, max_new_tokens=4)
    assert "".join(stream) == stream.result.text
    assert stream.result.fidelity.top1 == 1.0


def test_measuring_changes_neither_answer_nor_timing_nor_store(blended, monkeypatch):
    session, ask = blended
    plain, before = ask(), session.store.tiers["tokens"].sum()
    real, now = measure.greedy, [0.0]

    def slow(*args):
        now[0] += 1000
        return real(*args)

    monkeypatch.setattr(measure, "greedy", slow)
    monkeypatch.setattr("nbkv.inference.run.time", SimpleNamespace(perf_counter=lambda: now[0]))
    events = []
    session.events.add(events.append)
    result = ask(fidelity=True)

    assert result.token_ids == plain.token_ids
    assert now == [1000]
    assert result.timing.total_s == 0
    assert session.store.tiers["tokens"].sum() == before
    assert len([event for event in events if isinstance(event, Finished)]) == 1
    assert session.stats.requests == 2


def test_every_nth_request_is_measured(session_of, words):
    session = session_of(fidelity_every=3)
    found = [session.generate(words(20), max_new_tokens=2).fidelity is not None for _ in range(6)]
    assert found == [False, False, True] * 2
    history = session.history()
    assert history["kl"].notna().tolist() == history["top1"].notna().tolist() == found


def test_stats_keep_running_figures_of_each_strategy(blended):
    session, ask = blended
    measured = [ask(fidelity=True), ask(fidelity=True, strategy="epic(first_k=4)"), ask()]
    assert session.stats.strategies.keys() == {"cacheblend(budget=0)", "epic(first_k=4)"}
    found = session.stats.strategies["cacheblend(budget=0)"]

    assert (found["requests"], found["measured"]) == (2, 1)
    assert (found["kl"], found["kl_max"]) == (measured[0].fidelity.kl, measured[0].fidelity.kl_max)
    assert found["top1"] == measured[0].fidelity.top1
    assert found["hit_rate"] == pytest.approx((measured[0].hit_rate + measured[2].hit_rate) / 2)
    assert found["compute_share"] == pytest.approx((measured[0].compute.share + measured[2].compute.share) / 2)
    assert found["ttft_s"] > 0
    assert "cacheblend(budget=0)" in repr(session.stats)
    assert "top-1" in session.stats._repr_html_()


def test_what_is_measured_is_remembered_for_the_model(blended):
    session, ask = blended
    found = [ask(fidelity=True).fidelity.kl, ask(fidelity=True).fidelity.kl]
    known = kl_history(session._ctx.verdicts, session.adapter.fingerprint, "cacheblend(budget=0)")

    assert (known.n, known.largest) == (2, max(found))
    assert known.mean == pytest.approx(sum(found) / 2)


def test_a_stop_while_measuring_leaves_the_result(blended, monkeypatch):
    session, ask = blended
    real = measure.greedy

    def stopped(*args):
        session.stop()
        return real(*args)

    monkeypatch.setattr(measure, "greedy", stopped)
    result = ask(fidelity=True)

    assert result.fidelity is None
    assert result.finish_reason == "length"
    assert "distance to full was not measured: stopped" in result.notes
    assert ask().token_ids == result.token_ids


def test_an_abandoned_stream_is_not_measured(session_of, words):
    stream = session_of().stream(words(20), fidelity=True, max_new_tokens=12)
    next(stream)
    stream.close()
    assert stream.result.fidelity is None


@pytest.mark.parametrize("value", [1, "yes", None])
def test_fidelity_is_yes_or_no(session_of, words, value):
    with pytest.raises(BadOption, match=f"fidelity={value!r} is not accepted"):
        session_of().generate(words(5), fidelity=value)


@pytest.mark.parametrize("value", [-1, 1.5, True, "3"])
def test_fidelity_every_is_a_count(value):
    with pytest.raises(BadOption, match=r"fidelity_every=.* is not accepted"):
        nbkv.load("tiny", fidelity_every=value)
