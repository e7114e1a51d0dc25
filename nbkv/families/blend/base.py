"""Chunk blending: K/V of chunks encoded apart are placed at the prompt's positions, some rows are recomputed in place.

Everything lives in one coordinate system, absolute positions in the prompt: where KV is placed, which rows are
selected, where they are scattered and what they may see. What a method adds is the hook ``select``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.events import Reused
from nbkv.families.blend.assemble import assemble
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.fallback import in_full
from nbkv.families.options import check_share
from nbkv.result import Provenance
from nbkv.strategy import Prefilled, Strategy
from nbkv.timing import timed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(kw_only=True, repr=False)
class Blend(Strategy):
    """Reuse chunks at any position, recompute the rows that ``select`` names; approximate below the full budget.

    Each leaf declares ``budget``, the share of reused tokens that is recomputed, with its paper's default; it is no
    field here so that a leaf decides what its first option is.
    """

    family: ClassVar[str] = "blend"
    exact: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("prefix", "relocation", "walk")
    aliases: ClassVar[dict[str, str]] = {"recompute_ratio": "budget"}

    if TYPE_CHECKING:
        budget: float | None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``budget`` is a share."""
        check_share(self, "budget")

    def at_full_budget(self) -> Strategy | None:
        """Return this strategy recomputing every reused token."""
        return replace(self, budget=1.0)

    @abstractmethod
    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the positions ``[k]`` of reused rows to recompute, ``partial.room(budget)`` of them at most.

        Passes made to find out go through ``partial``, which counts them as selection.
        """

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:  # noqa: ARG002
        """Return the request with the spans to place, and the K/V to place there, by first position.

        What is not named is placed from the store: a chunk's canonical KV.
        """
        return request, {}

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows ``chosen`` and all without KV; return the logits ``[V]`` after the last token."""
        return partial.finish(chosen)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Place stored K/V, select rows, run these and all rows without K/V; return the cache and last logits."""
        if len(request.ids) > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no chunk reuse")
        clock = timed()
        return self.blend(*self.supply(request, ctx), ctx, clock)

    def blend(
        self, request: Request, supplied: Mapping[int, SpanKV], ctx: Context, clock: Callable[[], float]
    ) -> Prefilled:
        """Place what was ``supplied`` and what the store has, select and run; loading has begun with ``clock``."""
        partial = assemble(request, ctx, supplied)
        load_s, clock = clock(), timed()
        for _, span, _ in partial.placed:
            ctx.tell(Reused, start=span.start, stop=span.stop, tier=ctx.store.name)
        with closing(partial.placement):
            chosen = partial.reused if self.budget == 1 else self.select(partial)
            select_s = clock()
            logits = self.run(partial, chosen)
        partial.cache.truncate(ctx.adapter.capabilities.whole(partial.length))
        return Prefilled(
            cache=partial.cache,
            logits=logits,
            provenance=provenance(partial, chosen),
            rows=partial.rows_work,
            select=partial.select_work,
            load_s=load_s,
            select_s=select_s,
            notes=partial.notes,
            deviation=None if partial.deviations is None else partial.deviations.cpu().numpy(),
            own=partial,
        )


def provenance(partial: PartialPrefill, chosen: torch.Tensor) -> NDArray[np.uint8]:
    """Return where each row's K/V came from (uint8 ``[n_prompt]``) once the rows ``chosen`` were recomputed."""
    sources = np.full(partial.length, Provenance.FRESH, dtype=np.uint8)
    sources[: partial.prefix] = Provenance.PREFIX
    sources[partial.reused.cpu().numpy()] = Provenance.CHUNK
    again = torch.cat([chosen, partial.last]).cpu().numpy()
    usable = sources != Provenance.FRESH
    usable[: partial.known] = True
    sources[again[usable[again]]] = Provenance.RECOMPUTED
    for _, span, encoded in partial.placed:
        if encoded:
            sources[span.start : span.stop] = Provenance.FRESH
    return sources
