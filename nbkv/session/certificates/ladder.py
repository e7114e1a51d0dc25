"""One strategy with falling budgets, tested from the safest step down until one fails: fixed-sequence testing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, isfinite, isnan, log10

from nbkv.families.routing import binomial
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.show.units import plural

_MOST = 50  # times as many prompts as there were, at most, are worth proposing


@dataclass
class Step:
    """A strategy and what was measured of it: a prompt's error (nats), compute share and time to first token (s)."""

    spec: str
    budget: float | None = None
    kls: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    ttfts: list[float] = field(default_factory=list)

    def add(self, kl: float, share: float, ttft_s: float) -> None:
        """Take in one more prompt; an error that is no number counts as infinite."""
        self.kls.append(float("inf") if isnan(kl) else kl)
        self.shares.append(share)
        self.ttfts.append(ttft_s)

    def above(self, max_kl: float) -> int:
        """Return how many prompts have an error above ``max_kl``."""
        return sum(kl > max_kl for kl in self.kls)

    @property
    def share(self) -> float:
        """Return the mean compute share; nan if nothing was measured."""
        return statistics.fmean(self.shares) if self.shares else float("nan")


@dataclass(frozen=True)
class Ladder:
    """Steps from the safest to the cheapest, in an order that was fixed before anything was measured."""

    steps: Sequence[Step]

    def in_play(self, max_kl: float, allowed: int) -> list[Step]:
        """Return the steps whose measuring can still matter: down to the first with more than ``allowed`` above.

        That one is out for good, since further prompts only add to those above, and so is all below it.
        """
        return [*self.certified(max_kl, allowed), *self._out(max_kl, allowed)[:1]]

    def certified(self, max_kl: float, allowed: int) -> list[Step]:
        """Return the steps that stand: all above the first that has more than ``allowed`` prompts above ``max_kl``."""
        out = self._out(max_kl, allowed)
        return list(self.steps[: len(self.steps) - len(out)])

    def _out(self, max_kl: float, allowed: int) -> list[Step]:
        for at, step in enumerate(self.steps):
            if step.above(max_kl) > allowed:
                return list(self.steps[at:])
        return []


def cheapest(steps: Sequence[Step]) -> Step | None:
    """Return the one with the smallest mean compute share; the first of equals, None of none.

    It may be chosen on the same prompts: with confidence 1 - alpha all that are certified hold at once.
    """
    return min(steps, key=lambda step: step.share, default=None)


def wanting(ladders: Sequence[Ladder], guarantee: Guarantee, n: int) -> str:
    """Return what it would have taken to certify the first step that came nearest, where no ladder has one."""
    allowed = guarantee.allowed(n, len(ladders))
    # the bound that as many prompts as are allowed are above, of each ladder's safest step
    bounds = [(sorted(ladder.steps[0].kls)[n - allowed - 1], ladder.steps[0]) for ladder in ladders]
    bound, step = min(bounds, key=lambda each: each[0])
    above = step.above(guarantee.max_kl)
    told = f"nearest is {step.spec}: {above} of {plural(n, 'prompt')} above {guarantee.max_kl:g} nats, {allowed} may be"
    ways = [f"max_kl={_rounded_up(bound):g}"] if isfinite(bound) else []
    if more := _more(above, n, guarantee, len(ladders)):
        ways.append(f"about {plural(more, 'prompt')} with the same share above")
    return f"{told}; it would take {' or '.join(ways)} (on prompts not seen yet)" if ways else told


def _more(above: int, n: int, guarantee: Guarantee, ladders: int) -> int | None:
    """Return how many prompts would do if the share above stayed as it is; None if many times as many would not."""
    level = guarantee.level(ladders)
    for times in range(2, _MOST + 1) if above < guarantee.rate * n else ():
        if binomial.at_most(times * above, times * n, guarantee.rate) <= level:
            return times * n
    return None


def _rounded_up(value: float) -> float:
    """Return ``value`` in two digits, not below it."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(value)) - 1)
    return ceil(value / unit) * unit
