"""How much of each row the watched rows take: attention times value norm."""

from __future__ import annotations

import torch

from nbkv.models.attention.layer import Attended


def influence(seen: Attended) -> torch.Tensor:
    """Return float32 ``[T]``: attention of the watched rows to each key, times the norm of its value, over heads."""
    shared = seen.values.shape[0]  # query heads that share a value head stand next to each other
    received = seen.weights.reshape(shared, -1, seen.weights.shape[-1]).sum(dim=1)
    taken: torch.Tensor = received * seen.values.to(torch.float32).norm(dim=-1)
    return taken.sum(dim=0)
