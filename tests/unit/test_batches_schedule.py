"""The order of a stream of requests: by hit rate, and nobody waits forever."""

from __future__ import annotations

from itertools import islice

import pytest

from nbkv.errors import BadOption
from nbkv.session.batches.schedule import AsGiven, HitRateOrder, schedule_of


def test_without_one_all_come_at_once():
    assert [*AsGiven().waves(iter("abc"), ord)] == [["a", "b", "c"]]
    assert [*AsGiven().waves((), ord)] == []


def test_the_highest_hit_rates_go_first_and_nothing_is_lost():
    order = HitRateOrder(window=6, wave=2, patience=9)
    waves = [*order.waves([1, 9, 3, 8, 2, 7], float)]
    assert waves == [[9, 8], [3, 7], [1, 2]]


@pytest.mark.parametrize(("window", "wave", "patience"), [(4, 1, 0), (8, 2, 3), (16, 4, 1), (5, 5, 2)])
def test_a_request_without_hits_waits_no_longer_than_is_said(window, wave, patience):
    order, served = HitRateOrder(window, wave, patience), 0

    def arriving():
        yield "cold"
        while True:
            yield "hot"

    for number, some in enumerate(order.waves(arriving(), lambda each: each == "hot")):
        served = number
        if "cold" in some:
            break
    assert served <= patience + -(-window // wave)


def test_only_as_many_are_taken_from_a_stream_as_may_wait():
    taken = []

    def arriving():
        for at in range(100):
            taken.append(at)
            yield at

    assert [*islice(HitRateOrder(window=5, wave=2).waves(arriving(), float), 2)] == [[3, 4], [5, 6]]
    assert len(taken) == 7


def test_rates_are_asked_anew_for_each_wave():
    rates = {"a": 0.0, "b": 1.0, "c": 0.0}
    waves = HitRateOrder(window=3, wave=1, patience=9).waves("abc", lambda each: rates[each])
    assert next(waves) == ["b"]
    rates["c"] = 1.0
    assert next(waves) == ["c"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("best", "schedule is"),
        ("hits(3)", "schedule is"),
        ("hits(windows=3)", "did you mean 'window'"),
        ("hits(", "is"),
    ],
)
def test_what_is_no_schedule_is_refused(spec, said):
    with pytest.raises(BadOption, match=said):
        schedule_of(spec)


@pytest.mark.parametrize("options", ["window=0", "wave=-1", "patience=0.5", "wave=True"])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(BadOption, match=options.split("=", maxsplit=1)[0]):
        schedule_of(f"hits({options})")


def test_a_schedule_is_written_like_a_strategy():
    assert schedule_of(None) == AsGiven()
    assert schedule_of("hits") == HitRateOrder()
    assert schedule_of("hits(wave=2, window=7)") == HitRateOrder(window=7, wave=2)
