"""Where anchors come from: a prompt that was computed in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from nbkv.context import Context, Request
from nbkv.families.agents import anchor_pool
from nbkv.families.agents.alone import alone, moved, unrotated
from nbkv.families.agents.anchors import Anchor, Slot, marks, slots
from nbkv.families.agents.offsets import Alignment, beyond_rounding, comparison, difference, offset
from nbkv.fidelity import kl_rows
from nbkv.kv import Space
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work


class MeasuredReuse(NamedTuple):
    """What reuse would have made of an answer of full: the mean ``kl`` in nats, and the largest where a word changed.

    ``changed`` is KL(full || reuse) at the worst of the tokens at which the likeliest one is another; 0: at none it is.
    """

    kl: float
    changed: float

    @classmethod
    def of(cls, full: torch.Tensor, reused: torch.Tensor) -> MeasuredReuse:
        """Compare logits ``[n, V]`` before the same ``n`` tokens."""
        apart, other = kl_rows(full, reused), full.argmax(dim=-1) != reused.argmax(dim=-1)
        return cls(float(apart.mean()), float((apart * other).max()))


@dataclass(frozen=True, eq=False)
class AnchorSource:
    """A prompt whose exact K/V are in ``cache``; what it leaves belongs to ``space``. ``work`` counts what is run."""

    request: Request
    cache: SequenceCache
    ctx: Context
    space: Space
    alignment: Alignment
    work: Work

    def added_to(self, pool: Sequence[Anchor], most: int, measured: MeasuredReuse | None = None) -> list[Anchor]:
        """Return ``pool`` with an anchor of each slot, at most ``most`` a place, and what was ``measured`` of it."""
        every = list(pool)
        for slot in slots(self.request.prompt):
            there = anchor_pool.at(every, self.space, slot.place)
            every = anchor_pool.added(every, self.anchor(slot, there, measured), most)
            every = self._compared_again(every, anchor_pool.at(every, self.space, slot.place))
        return every

    def anchor(self, slot: Slot, there: Sequence[Anchor], measured: MeasuredReuse | None = None) -> Anchor:
        """Return the anchor of ``slot``, compared with what those ``there`` make of its offsets."""
        own, ids = alone(slot.chunk, self.request, self.ctx, self.work), slot.chunk.token_ids
        here = unrotated(self.cache.read(*slot.span), slot.span.start, self.ctx)
        apart = unrotated(own.kv, own.base, self.ctx)
        true = beyond_rounding(difference(here, apart), apart)
        start, stop = slot.behind
        new = Anchor(
            space=self.space,
            place=slot.place,
            ids=ids,
            marks=marks(own.kv),
            kv=true,
            behind_ids=self.request.ids[start:stop],
            behind=moved(self.cache.read(start, stop), start, 0, self.ctx).compact(),
            kl=None if measured is None else measured.kl,
            changed=0.0 if measured is None else measured.changed,
        )
        return self._compared(new, self._others(new, there))

    def _others(self, one: Anchor, there: Sequence[Anchor]) -> list[Anchor]:
        """Return the anchors of other texts among those ``there`` that are long enough for ``one``."""
        return self.alignment.long_enough(len(one.ids), [each for each in there if each.ids != one.ids])

    def _compared(self, one: Anchor, others: Sequence[Anchor]) -> Anchor:
        """Return ``one``, compared with what ``others`` make of its offsets."""
        if not others:
            return one
        near = self.alignment.neighbours(one.marks, one.ids, others)
        guessed = offset(near, torch.ones(2, len(one.kv.keys)))
        return replace(one, heldout=comparison(one.kv, guessed), compared=len(others))

    def _compared_again(self, every: Sequence[Anchor], there: Sequence[Anchor]) -> list[Anchor]:
        """Return ``every`` anchor, the one compared again to which most of those ``there`` came since it was.

        One for each new anchor: all of them each time would cost the square of their number.
        """
        others = [self._others(one, there) for one in there]
        since = [len(each) - one.compared for one, each in zip(there, others, strict=True)]
        at = since.index(max(since))
        if since[at] <= 0:
            return list(every)
        new = self._compared(there[at], others[at])
        return [new if one is there[at] else one for one in every]

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
