"""How much of each row the watched rows take: attention times value norm."""

from __future__ import annotations

import torch

from nbkv.families.blend.partial import PartialPrefill
from nbkv.models.attention.layer import Attended
from nbkv.selection import best


def influence(seen: Attended) -> torch.Tensor:
    """Return float32 ``[T]``: attention of the watched rows to each key, times the norm of its value, over heads."""
    shared = seen.values.shape[0]  # query heads that share a value head stand next to each other
    received = seen.weights.reshape(shared, -1, seen.weights.shape[-1]).sum(dim=1)
    taken: torch.Tensor = received * seen.values.to(torch.float32).norm(dim=-1)
    return taken.sum(dim=0)


def influential(partial: PartialPrefill, budget: float) -> torch.Tensor:
    """Return the reused rows of the highest influence on the question's, which run once over what is cached."""
    room = partial.room(budget)
    if not room:
        return partial.reused[:0]
    scores = torch.zeros(partial.length, device=partial.ids.device)
    partial.scout(lambda seen: scores.add_(influence(seen).to(scores.device)))
    return best(scores[partial.reused], partial.reused, room)
