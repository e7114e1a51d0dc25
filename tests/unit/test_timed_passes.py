"""Passes are timed in rounds: a busy moment, wherever it falls, spoils no figure; longer ones until one takes long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbkv.families.routing import cost_model, timed_passes
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.timed_passes import TimedPasses

KNOWN = CostModel(
    overhead=2e-3, row=5e-5, pair=1e-7, move=1e-5, copy=5e-6, scattered=(3e-3, 6e-5, 2e-7), watched=(4e-3, 7e-5, 3e-7)
)


class Clocked(TimedPasses):
    """Passes that take as long as a model of costs says, ``busy`` times as long while their number is in ``when``."""

    def __init__(self, known, longest, when=range(0), busy=1.0):
        self.known, self._longest, self.made, self.when, self.busy = known, longest, [], when, busy
        self._adapter = SimpleNamespace(walk=True, capabilities=SimpleNamespace(attention=True))

    def took(self, what, seconds):
        self.made.append(what)
        return seconds * (self.busy if len(self.made) - 1 in self.when else 1.0)

    def forward(self, rows, keys):
        return self.took((rows, keys), self.known.run(rows, keys))

    def scattered(self, rows, keys):
        return self.took("scattered", self.known.run_scattered(rows, keys))

    def watched(self, rows, keys):
        return self.took("watched", self.known.run_watched(rows, keys))

    def moving(self, tokens):
        return self.took("move", self.known.move)

    def copying(self, tokens):
        return self.took("copy", self.known.copy)


@pytest.mark.parametrize(
    ("row", "longest", "lengths"),
    [
        (1e-6, 1024, [16, 64, 256, 1024]),
        (1e-6, 700, [16, 64, 256, 700]),
        (2e-3, 1024, [16, 64, 256]),
        (1.0, 1024, [16, 64]),
        (1e-6, 9, [4, 9]),
        (1e-6, 2, [1, 2]),
    ],
)
def test_longer_passes_are_timed_until_one_takes_its_time(row, longest, lengths):
    timed = Clocked(CostModel(overhead=1e-3, row=row, pair=0.0), longest)
    assert list(timed.passes()) == [(n, n) for n in lengths] + [(lengths[0], lengths[-1])]
    assert timed.made[0] == timed.made[1]  # the first of all sets things up


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_pass_that_took_long_once_ends_nothing(at):
    timed = Clocked(CostModel(overhead=1e-3, row=1e-6, pair=0.0), 1024, range(at, at + 1), 500.0)
    assert max(timed.passes()) == (1024, 1024)


def measured(monkeypatch, **how):
    monkeypatch.setattr(timed_passes, "TimedPasses", lambda _: Clocked(KNOWN, 1024, **how))
    found = cost_model.measure(SimpleNamespace(capabilities=SimpleNamespace(per_token=True)))
    return found, [
        found.run(1024, 1024),
        found.run(24, 664),
        found.run_scattered(200, 1024),
        found.run_watched(30, 900),
    ]


@pytest.mark.parametrize("busy", [1.0, 2.0, 30.0])
@pytest.mark.parametrize("begins", range(0, 48, 3))
def test_a_busy_moment_spoils_no_figure(monkeypatch, begins, busy):
    """As long as a whole round: all that one of three rounds says may be wrong."""
    found, expected = measured(monkeypatch, when=range(begins, begins + 14), busy=busy)
    assert expected == pytest.approx(
        [KNOWN.run(1024, 1024), KNOWN.run(24, 664), KNOWN.run_scattered(200, 1024), KNOWN.run_watched(30, 900)]
    )
    assert (found.move, found.copy) == pytest.approx((KNOWN.move, KNOWN.copy))


def test_a_machine_that_is_busy_all_the_time_is_measured_as_it_is(monkeypatch):
    _, expected = measured(monkeypatch, when=range(1000), busy=2.0)
    assert expected[0] == pytest.approx(2 * KNOWN.run(1024, 1024))
