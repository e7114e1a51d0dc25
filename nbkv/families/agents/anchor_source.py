"""Where anchors come from: a prompt that was computed in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbkv.context import Context, Request
from nbkv.families.agents import anchor_pool
from nbkv.families.agents.alone import alone, moved, unrotated
from nbkv.families.agents.anchors import Anchor, Slot, marks, slots
from nbkv.families.agents.offsets import Alignment, comparison, difference, offset
from nbkv.kv import Space
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work


@dataclass(frozen=True, eq=False)
class AnchorSource:
    """A prompt whose exact K/V are in ``cache``; what it leaves belongs to ``space``. ``work`` counts what is run."""

    request: Request
    cache: SequenceCache
    ctx: Context
    space: Space
    alignment: Alignment
    work: Work

    def added_to(self, pool: Sequence[Anchor], most: int, kl: float | None) -> list[Anchor]:
        """Return ``pool`` with an anchor of each slot, at most ``most`` a place; ``kl`` is what was measured of it."""
        every = list(pool)
        for slot in slots(self.request.prompt):
            there = anchor_pool.at(every, self.space, slot.place)
            every = anchor_pool.added(every, self.anchor(slot, there, kl), most)
        return every

    def anchor(self, slot: Slot, there: Sequence[Anchor], kl: float | None) -> Anchor:
        """Return the anchor of ``slot``, compared with what those ``there`` before would have made of its offsets."""
        own, ids = alone(slot.chunk, self.request, self.ctx, self.work), slot.chunk.token_ids
        here = unrotated(self.cache.read(*slot.span), slot.span.start, self.ctx)
        true = difference(here, unrotated(own.kv, own.base, self.ctx))
        known = marks(own.kv)
        others = self.alignment.long_enough(len(ids), [one for one in there if one.ids != ids])
        heldout = None
        if others:
            guessed = offset(self.alignment.neighbours(known, ids, others), torch.ones(2, len(true.keys)))
            heldout = comparison(true, guessed)
        start, stop = slot.behind
        return Anchor(
            space=self.space,
            place=slot.place,
            ids=ids,
            marks=known,
            kv=true,
            behind_ids=self.request.ids[start:stop],
            behind=moved(self.cache.read(start, stop), start, 0, self.ctx).compact(),
            heldout=heldout,
            kl=kl,
        )

    def answered(self, first: torch.Tensor, answer: Sequence[int], cache: SequenceCache | None = None) -> torch.Tensor:
        """Return the logits ``[n, V]`` before each token of ``answer``; ``first`` are those behind the prompt.

        They are run behind the prompt's K/V in ``cache`` (None: a copy of the exact ones).
        """
        n, given = len(self.request.ids), self.ctx.adapter.tensor(answer[:-1])
        if not len(given):
            return first[None]
        if cache is None:
            cache = GrowingCache(n + len(answer))
            cache.write(0, self.cache.read(0, n))
        after = self.ctx.adapter.forward(given, cache, start=n, keep=len(given), work=self.work)
        return torch.cat([first[None], after.to(first.device)])
