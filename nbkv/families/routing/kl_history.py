"""How far an approximate strategy was from full where that was measured: a running mean for each model and strategy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nbkv.models.identity.verdicts import Verdicts

_MEMORY = 32  # measurements that the mean is about; older ones fade
_WORST = 100.0  # nats; more, or infinite, counts as this


@dataclass(frozen=True)
class KLHistory:
    """``n`` measurements of KL(full || strategy) of the next-token distribution, in nats: their mean and largest."""

    n: int = 0
    mean: float = 0.0
    largest: float = 0.0

    def with_kl(self, kl: float) -> KLHistory:
        """Return this with one more measurement."""
        kl = min(kl, _WORST)
        n = self.n + 1
        return KLHistory(n, self.mean + (kl - self.mean) / min(n, _MEMORY), max(self.largest, kl))


def kl_history(verdicts: Verdicts, model: str, spec: str) -> KLHistory:
    """Return what is known of ``spec`` on ``model`` (a fingerprint)."""
    return KLHistory(**(verdicts.get(_name(model, spec)) or {}))


def learn_kl(verdicts: Verdicts, model: str, spec: str, kl: float) -> KLHistory:
    """Remember one more measurement and return all that is known now."""
    known = kl_history(verdicts, model, spec).with_kl(kl)
    verdicts.put(_name(model, spec), asdict(known))
    return known


def _name(model: str, spec: str) -> str:
    return f"drift@{spec}@{model}"
