"""The switch: what timed passes say about reuse."""

from __future__ import annotations

import json

import pytest

from nbkv.families.attention.speedup import OFF, ON, PLAIN, PLAIN_FIRST, REFRESHED, REUSED, PassTimes, ReuseSwitch


def gain(*, plain, refreshed, reused, share, least=1.05, context=1000):
    found = ReuseSwitch(PassTimes(), least)
    for _ in range(3):
        found.times.add(PLAIN, context, plain)
        found.times.add(REFRESHED, context, refreshed)
        if reused is not None:
            found.times.add(REUSED, context, reused)
    for index in range(20):
        found.asked(context, reuse=index < share * 20)
    return found


@pytest.mark.parametrize(
    ("times", "mode"),
    [
        ({"plain": 2.0, "refreshed": 2.0, "reused": 1.0, "share": 0.5}, ON),
        ({"plain": 1.0, "refreshed": 1.3, "reused": 1.0, "share": 0.5}, OFF),  # a short context: only overhead
        ({"plain": 1.0, "refreshed": 1.0, "reused": 0.5, "share": 0.05}, OFF),  # many tokens a pass: no reuse
        ({"plain": 1.0, "refreshed": 1.0, "reused": None, "share": 0.0}, OFF),
    ],
)
def test_it_is_on_where_it_gains(times, mode):
    assert gain(**times).begin(1000) == mode


def test_the_speedup_is_a_plain_pass_over_the_mean_pass():
    assert gain(plain=2.0, refreshed=2.2, reused=1.0, share=0.5).speedup(1000) == pytest.approx(2 / 1.6)
    assert gain(plain=3.0, refreshed=2.2, reused=1.0, share=0.25).speedup(1000) == pytest.approx(3 / 1.9)


def test_decisions_are_looked_at_again_now_and_then():
    on, off = (gain(plain=plain, refreshed=2.0, reused=1.0, share=0.5) for plain in (3.0, 1.0))
    modes = [on.begin(1000) for _ in range(32)]
    assert modes.count(PLAIN_FIRST) == 4
    assert modes.count(ON) == 28
    assert [off.begin(1000) for _ in range(32)].count(ON) == 1
    again = ReuseSwitch(PassTimes.of(json.loads(json.dumps(on.times.to_dict()))), 1.05)
    assert [again.begin(1000) for _ in range(8)].count(PLAIN_FIRST) == 1  # also over answers of a block each


def test_what_is_not_known_is_tried_in_turns():
    found = ReuseSwitch(PassTimes(), 1.05)

    assert [found.begin(1000) for _ in range(4)] == [PLAIN_FIRST, ON, PLAIN_FIRST, ON]
    known = gain(plain=2.0, refreshed=2.0, reused=1.0, share=0.5)
    assert known.begin(1000) == ON
    assert known.begin(64) == PLAIN_FIRST  # another size of context
    assert known.begin(1050) == ON  # the same, as far as sizes are told apart


def test_reuse_that_never_comes_up_is_not_waited_for_but_comes_back():
    found = gain(plain=1.0, refreshed=1.0, reused=None, share=0.0)
    assert found.begin(1000) == OFF
    for _ in range(3):
        found.asked(1000, reuse=True)  # fewer tokens a pass now
    assert found.begin(1000) in {ON, PLAIN_FIRST}


def test_no_gain_asked_for_is_always_on():
    assert gain(plain=1.0, refreshed=9.0, reused=9.0, share=0.5, least=0).begin(1000) == ON
    assert ReuseSwitch(PassTimes(), 0).begin(1000) == ON


def test_times_survive_json_and_only_the_latest_count():
    times = PassTimes()
    for index in range(30):
        times.add(PLAIN, 500, float(index))
    again = PassTimes.of(json.loads(json.dumps(times.to_dict())))

    assert again.seconds(PLAIN, 500) == times.seconds(PLAIN, 500) == 22
    again.add(PLAIN, 500, 100.0)
    assert len(again.get(PLAIN, 500)) == 8
    assert PassTimes.of(None).seconds(PLAIN, 500) == float("inf")
