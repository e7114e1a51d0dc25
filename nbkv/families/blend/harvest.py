"""Blending with K/V harvested from real prompts: what a request computed is kept for later ones of its session.

Harvested KV was made while attending to the rest of its prompt, some of it approximate KV itself. It is kept
apart from the store, on the session's own shelf, and found only by the strategy, session, tenant and model it was made
with: a chunk harvested from one user's prompt can carry that user's instructions into another's (HijackKV).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbkv.context import Context, Request
from nbkv.families.blend.base import Blend, blended, keep_head
from nbkv.families.blend.earlier import HarvestedKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_share
from nbkv.prompts.prompt import Prompt
from nbkv.show.units import plural, size
from nbkv.strategy import Prefilled


@dataclass(kw_only=True, repr=False)
class Harvest(Blend):
    """Keep the K/V that ``harvest`` names after each request; those with the lowest ``worth`` are evicted first.

    Each leaf declares ``store_share``: how many bytes may be kept, as a share of the store's limit and besides it.
    """

    if TYPE_CHECKING:
        store_share: float

    def __post_init__(self) -> None:
        """Refuse a share out of range; a budget is the leaf's own affair."""
        check_share(self, "store_share")

    @abstractmethod
    def harvest(
        self, partial: PartialPrefill, ids: Sequence[int], request: Request, ctx: Context
    ) -> Sequence[HarvestedKV]:
        """Return all that is kept from now on; ``partial.cache`` holds the KV of ``ids``, prompt and answer, so far."""

    @abstractmethod
    def worth(self, kept: HarvestedKV) -> float:
        """Return the eviction score of ``kept``: the lowest is evicted first."""

    def kept(self, ctx: Context) -> Sequence[HarvestedKV]:
        """Return what earlier requests of this session left, of every space."""
        return tuple(ctx.scratch.get(self.name, ()))

    def continues(self, prompt: Prompt, prefix: int) -> bool:
        """Return whether nothing behind the prefix was there before; without chunks a prompt is harvested."""
        return prompt.searched and super().continues(prompt, prefix)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep what is harvested of a prompt that was blended, and the K/V in front of its first chunk."""
        partial = blended(prefilled)
        if prefilled.lease is not None:
            super().commit(prefilled, ids, request, ctx)
        prefilled.notes += keep_head(partial, request, ctx)
        if not request.keep or partial is None:
            return
        self.keep(self.harvest(partial, ids, request, ctx), prefilled, ctx)

    def limit(self, ctx: Context) -> int:
        """Return how many bytes may be kept."""
        return int(self.store_share * ctx.store.limit)

    def keep(self, found: Sequence[HarvestedKV], prefilled: Prefilled, ctx: Context) -> int:
        """Keep what was ``found``, evicting the lowest scores above the limit; return the bytes kept."""
        left, limit = list(found), self.limit(ctx)
        nbytes = sum(one.nbytes for one in left)
        older = {id(one) for one in self.kept(ctx)}
        # what this request left goes last: it has had no time yet to be of use
        for one in sorted(left, key=lambda one: (id(one) not in older, self.worth(one))):
            if nbytes <= limit:
                break
            left.remove(one)
            nbytes -= one.nbytes
        ctx.scratch[self.name] = tuple(left)
        prefilled.notes.append(f"{self.name} keeps {plural(len(left), 'span')} for this session ({size(nbytes)})")
        return nbytes
