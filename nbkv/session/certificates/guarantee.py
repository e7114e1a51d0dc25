"""What is promised, and what a number of prompts must show before it may be promised (Learn then Test)."""

from __future__ import annotations

from dataclasses import dataclass

from nbkv.errors import BadOption
from nbkv.families.routing import binomial
from nbkv.scalars import is_number
from nbkv.show.units import plural


@dataclass(frozen=True)
class Guarantee:
    """With confidence 1 - ``alpha``, at most a share ``rate`` of prompts has an error above ``max_kl`` nats.

    The loss of a prompt is 1 if its error is above ``max_kl``, else 0, and the risk is the mean loss of prompts like
    those measured: drawn independently from the same source. Nothing is assumed of how errors are distributed. A
    number of ladders (strategies with falling budgets) is tested at once, each at ``alpha / ladders`` (Bonferroni);
    within a ladder no more is spent (fixed sequence: Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052).
    """

    max_kl: float
    rate: float
    alpha: float

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a bound that is no number of nats, and shares that are not between 0 and 1."""
        if not (is_number(self.max_kl) and 0 <= self.max_kl < float("inf")):
            message = f"max_kl={self.max_kl!r} is not accepted: max_kl is a number of nats >= 0"
            raise BadOption(message)
        meant = {"rate": "the share of prompts that may be above max_kl", "alpha": "the chance of a wrong certificate"}
        for name, what in meant.items():
            value = getattr(self, name)
            if not (is_number(value) and 0 < value < 1):
                message = f"{name}={value!r} is not accepted: {name}, {what}, is a number between 0 and 1"
                raise BadOption(message)
        for name in ("max_kl", *meant):  # numpy's numbers would not be JSON
            object.__setattr__(self, name, float(getattr(self, name)))

    def level(self, ladders: int) -> float:
        """Return the chance of a wrong certificate that each of ``ladders`` may take."""
        return self.alpha / max(1, ladders)

    def needed(self, ladders: int) -> int:
        """Return the fewest prompts that can certify anything: as many as do where none is above ``max_kl``."""
        return binomial.fewest(self.rate, self.level(ladders)) if ladders else 1

    def allowed(self, n: int, ladders: int) -> int:
        """Return how many of ``n`` prompts may be above ``max_kl``; -1 if ``n`` is too few."""
        return binomial.most_above(n, self.rate, self.level(ladders))

    def check(self, n: int, ladders: int) -> None:
        """Raise ``BadOption`` if ``n`` prompts are too few to certify anything."""
        needed = self.needed(ladders)
        if n < needed:
            tested = plural(ladders, "strategy", "strategies")
            too_few = "is too little" if n == 1 else "are too few"
            message = (
                f"{plural(n, 'prompt')} {too_few}: {needed} are needed (with none above max_kl) for "
                f"rate={self.rate:g}, alpha={self.alpha:g} and {tested} "
                "(give more prompts, a larger rate or alpha, or fewer strategies)"
            )
            raise BadOption(message)

    def __str__(self) -> str:
        """Return what is promised."""
        return (
            f"with confidence {100 * (1 - self.alpha):g} %, at most {100 * self.rate:g} % of prompts like these are "
            f"farther than {self.max_kl:g} nats from full"
        )
