"""How much kept attention has changed by the time it is computed again: the drift that reuse would have hidden."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from nbkv.context import Context
from nbkv.ops import State

CALIBRATION = 24  # comparisons of a layer after which its heads are known

Figures = dict[str, tuple[list[float], list[float]]]


@dataclass(eq=False)
class HeadDrift:
    """Comparisons of a layer's attention in one pass with that in a later one, summed up head by head.

    ``sums`` ``[2, H_q]`` of each layer: the cosine between old and new output, and the absolute change of lse (nats),
    both means over the rows; ``n`` comparisons.
    """

    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    n: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, old: State, new: State) -> None:
        """Compare what a layer's heads gave ``[1, H_q, rows, D]`` with what they give now."""
        cosine = torch.cosine_similarity(old[0], new[0], dim=-1)
        found = torch.stack((cosine, (old[1] - new[1]).abs())).mean(dim=(1, 3))
        self.sums[layer] = found if layer not in self.sums else self.sums[layer] + found
        self.n[layer] = self.n.get(layer, 0) + 1

    @property
    def compared(self) -> int:
        """Return how many comparisons each layer has had."""
        return min(self.n.values(), default=0)

    @property
    def cosine(self) -> float | None:
        """Return the mean cosine over layers and heads; None if nothing was compared."""
        return self._mean(0)

    @property
    def lse(self) -> float | None:
        """Return the mean change of lse in nats; None if nothing was compared."""
        return self._mean(1)

    def heads(self) -> Figures:
        """Return, by layer, the mean cosine and the mean change of lse of each query head."""
        means = {str(layer): (total / self.n[layer]).tolist() for layer, total in self.sums.items()}
        return {layer: (cosine, lse) for layer, (cosine, lse) in means.items()}

    def _mean(self, which: int) -> float | None:
        layers = [total[which].mean() / self.n[layer] for layer, total in self.sums.items()]
        return float(sum(layers)) / len(layers) if layers else None


def known_heads(ctx: Context) -> Figures | None:
    """Return what was found out about the heads of ``ctx``'s model at its size of a block; None if nothing was."""
    found: Figures | None = ctx.verdicts.get(_name(ctx))
    return found


def learn_heads(ctx: Context, found: HeadDrift) -> Figures:
    """Remember and return what ``found`` says about the heads of ``ctx``'s model."""
    heads = found.heads()
    ctx.verdicts.put(_name(ctx), heads)
    return heads


def changing(heads: Figures, ctx: Context, cosine: float, lse: float) -> dict[int, list[int]]:
    """Return by layer the K/V heads that must not be reused.

    Those are heads of which a query head keeps less than ``cosine`` between passes, or moves more than ``lse`` nats.
    """
    found = {}
    for layer, (cosines, moves) in heads.items():
        good = (torch.tensor(cosines) >= cosine) & (torch.tensor(moves) <= lse)
        groups = good.reshape(ctx.adapter.capabilities.kv_heads[int(layer)], -1).all(dim=1)
        found[int(layer)] = (~groups).nonzero().flatten().tolist()
    return found


def _name(ctx: Context) -> str:
    return f"heads@{ctx.adapter.capabilities.blockwise}@{ctx.model}"
