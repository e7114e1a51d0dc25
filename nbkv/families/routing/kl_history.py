"""How far an approximate strategy was from full where that was measured, for each model and strategy."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from nbkv.families.routing.binomial import at_most
from nbkv.models.identity.verdicts import Verdicts

_MEMORY = 256  # the newest measurements are held
_WORST = 100.0  # nats; more, or infinite, counts as this
_DOUBT = 0.1  # how probable it may be that a bound that is believed does not hold


@dataclass(frozen=True)
class KLHistory:
    """Measurements of an answer's mean KL(full || strategy), in nats, in the order they were made."""

    values: tuple[float, ...] = ()

    @property
    def n(self) -> int:
        """Return how many there are."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Return their mean; 0 if there are none."""
        return statistics.fmean(self.values) if self.values else 0.0

    @property
    def largest(self) -> float:
        """Return the largest; 0 if there are none."""
        return max(self.values, default=0.0)

    def with_kl(self, kl: float) -> KLHistory:
        """Return this with one more measurement."""
        return KLHistory((*self.values, min(kl, _WORST))[-_MEMORY:])

    def above(self, bound: float) -> int:
        """Return how many were above ``bound``."""
        return sum(value > bound for value in self.values)

    def keeps(self, bound: float, alpha: float) -> bool:
        """Return whether at most a share ``alpha`` of all prompts is above ``bound``, with confidence 0.9.

        One-sided and exact (Clopper and Pearson, 1934), for prompts that are exchangeable with those measured.
        """
        return at_most(self.above(bound), self.n, alpha) <= _DOUBT

    def is_open(self, bound: float, alpha: float) -> bool:
        """Return whether it is neither believed nor refuted, with the same confidence, that ``bound`` is kept."""
        refuted = 1 - at_most(self.above(bound) - 1, self.n, alpha) <= _DOUBT
        return not refuted and not self.keeps(bound, alpha)


def kl_history(verdicts: Verdicts, model: str, spec: str) -> KLHistory:
    """Return what is known of ``spec`` on ``model`` (a fingerprint)."""
    return KLHistory(tuple(verdicts.get(_name(model, spec)) or ()))


def learn_kl(verdicts: Verdicts, model: str, spec: str, kl: float) -> KLHistory:
    """Remember one more measurement and return all that is known now."""
    known = kl_history(verdicts, model, spec).with_kl(kl)
    verdicts.put(_name(model, spec), list(known.values))
    return known


def _name(model: str, spec: str) -> str:
    return f"answer_kl@{spec}@{model}"
