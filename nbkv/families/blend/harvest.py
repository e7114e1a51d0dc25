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
from nbkv.families.blend.base import Blend
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_share
from nbkv.kv import Space
from nbkv.strategy import Prefilled


@dataclass(frozen=True, eq=False, kw_only=True)
class HarvestedKV(SpanKV):
    """KV harvested from a prompt, and the space in which alone it may be used again."""

    space: Space

    @property
    def nbytes(self) -> int:
        """Return the bytes of the KV."""
        return 0 if self.kv is None else self.kv.nbytes


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

    def space(self, ctx: Context) -> Space:
        """Return the space of this strategy's K/V: its own lineage, model and tenant."""
        return ctx.space(f"approx:{self.name}")

    def kept(self, ctx: Context) -> Sequence[HarvestedKV]:
        """Return what earlier requests of this session left, of every space."""
        return tuple(ctx.scratch.get(self.name, ()))

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep what is harvested of a prompt that was blended."""
        partial = prefilled.own
        # None: the prompt was run in full; another cache: all keys were rotated by other angles meanwhile
        if not request.keep or partial is None or prefilled.cache is not partial.cache:
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
        prefilled.notes.append(f"{self.name} keeps {len(left)} spans for this session ({nbytes / 2**20:.1f} MiB)")
        return nbytes
