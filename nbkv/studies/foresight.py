"""The oracle of the eviction table: a policy that knows which tokens the answer will attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nbkv.families.evict.base import Evict
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingCache, EvictingLayer
from nbkv.models.passes import over_slots
from nbkv.session.session import Session
from nbkv.strategy import Strategy


def attention_maps(session: Session, prompt: Any, tokens: Sequence[int]) -> list[torch.Tensor]:  # noqa: ANN401  (what ``generate`` takes, or one that is built)
    """Return each layer's attention weights over prompt and answer, float32 ``[H_k, n, n]``.

    The maximum over the query heads that share a K/V head.
    """
    adapter, ids = session.adapter, (*session._prompt(prompt).ids, *tokens)  # noqa: SLF001
    cache = EvictingCache(adapter.n_layers)
    found: dict[int, torch.Tensor] = {}

    def see(seen: Attended) -> None:
        heads = len(cache.layers[seen.layer].positions)
        some = seen.weights.unflatten(0, (heads, -1)).amax(dim=1)
        found[seen.layer] = torch.cat([found[seen.layer], some], dim=1) if seen.layer in found else some

    over_slots(adapter, adapter.tensor(ids), cache, observe=see, observed=len(ids))
    return [found[layer].cpu() for layer in sorted(found)]


@dataclass(kw_only=True, repr=False)
class _FutureAttention(Evict):
    """Keep what the rest of the answer will attend to most: ``future`` holds, by layer, ``[H_k, answer, n]``."""

    future: list[torch.Tensor] = field(default_factory=list)
    prompt: int = 0

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:  # noqa: ARG002
        """Return the most that any row to come attends to each slot."""
        future = self.future[layer.index]
        ahead = future[:, min(at - self.prompt, future.shape[1] - 1)]
        return ahead.gather(1, layer.positions.long())


@dataclass(frozen=True)
class Foresight:
    """The oracle of the table: eviction that knows what the answer will attend to, which no strategy can."""

    keep: float

    def __str__(self) -> str:
        """Return its name in the table."""
        return f"oracle(keep={self.keep})"

    def of(self, session: Session, prompt: Any, tokens: Sequence[int]) -> Strategy:  # noqa: ANN401  (what ``generate`` takes, or one that is built)
        """Return the strategy for one prompt and full's answer to it."""
        n = len(session._prompt(prompt).ids)  # noqa: SLF001
        # from each row of the answer on, the most of all rows behind it
        rows = [each[:, n:].flip(1).cummax(dim=1).values.flip(1) for each in attention_maps(session, prompt, tokens)]
        return _FutureAttention(keep=self.keep, future=rows, prompt=n)
