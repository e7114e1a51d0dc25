"""Chunk blending: K/V of chunks encoded apart are placed at the prompt's positions, some rows are recomputed in place.

Everything lives in one coordinate system, absolute positions in the prompt: where KV is placed, which rows are
selected, where they are scattered and what they may see. What a method adds is the hook ``select``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.events import Reused
from nbkv.families.blend.assemble import assemble
from nbkv.families.blend.earlier import EarlierPrompt, remembered, with_earlier
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.fallback import in_full
from nbkv.families.options import check_share
from nbkv.families.prefix.base import not_kept
from nbkv.kv import Space
from nbkv.prompts.prompt import Prompt
from nbkv.result import Provenance
from nbkv.show.units import plural, size
from nbkv.stores.reading.layer_reader import LoadLost
from nbkv.strategy import Prefilled, Strategy, parse
from nbkv.timing import timed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHARE = 0.25  # of the store's limit, for what a strategy keeps of earlier prompts


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
    places: ClassVar[bool] = True

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

    def ahead(self, partial: PartialPrefill) -> Sequence[int]:
        """Return the reused rows that are recomputed whatever ``select`` finds; none where nothing was moved."""
        return () if self.budget is None else partial.allotment.ahead(self.budget)

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:
        """Return the request with the spans to place, and the K/V to place there, by first position.

        What is not named is placed from the store: a chunk's canonical KV. Where earlier prompts are searched, runs of
        those that this strategy served in this session are named.
        """
        earlier = [one for one in ctx.scratch.get(self.name, ()) if one.space == self.space(ctx)]
        if not request.prompt.searched or not earlier:
            return request, {}
        return with_earlier(request, earlier, ctx.store.holds(ctx.space(), request.ids), self.space(ctx).lineage)

    def continues(self, prompt: Prompt, prefix: int) -> bool:
        """Return whether a prompt of which no K/V were placed behind the first ``prefix`` tokens is run as exact.

        So is one that has no chunks, and one where nothing behind the prefix was there before, as far as searched.
        """
        return not prompt.chunks or _is_new(prompt, prefix)

    def space(self, ctx: Context) -> Space:
        """Return the space of this strategy's K/V: its own lineage, model and tenant."""
        return ctx.space(f"approx:{self.name}")

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows ``chosen`` and all without KV; return the logits ``[V]`` after the last token."""
        return partial.finish(chosen)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Place stored K/V, select rows, run these and all rows without K/V; return the cache and last logits.

        K/V from tiers arrive while earlier layers run. Where they do not, all begins anew, once what there is has come.
        """
        if len(request.ids) > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no chunk reuse")
        began, asked = timed(), request
        return self.blend(*self.supply(request, ctx), ctx, began, asked)

    def blend(
        self,
        request: Request,
        supplied: Mapping[int, SpanKV],
        ctx: Context,
        clock: Callable[[], float],
        asked: Request | None = None,
    ) -> Prefilled:
        """Place what was ``supplied`` and what the store has, select and run; loading has begun with ``clock``.

        ``asked`` is the request as it came, which is continued exactly where nothing has to be moved.
        """
        first = None
        try:
            first = assemble(request, ctx, supplied, layerwise=True)
            if asked is not None and not first.placed and self.continues(asked.prompt, first.prefix):
                first.placement.close()
                return _continued(asked, ctx)
            return self._prefill(first, ctx, clock())
        except LoadLost:
            again = assemble(request, ctx, supplied)
            again.notes.append("KV from a tier did not arrive whole: what was to run with it ran without")
            if first is not None:
                again.rows_work.token_layers += first.rows_work.token_layers
                again.select_work.token_layers += first.select_work.token_layers
            return self._prefill(again, ctx, clock())

    def _prefill(self, partial: PartialPrefill, ctx: Context, load_s: float) -> Prefilled:
        clock = timed()
        for _, span, _ in partial.placed:
            ctx.tell(Reused, start=span.start, stop=span.stop, tier=ctx.store.name)
        with closing(partial.placement):
            if self.budget is not None and 0 < self.budget < 1:
                partial.put_ahead(self.ahead(partial), self.budget)
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
            notes=[*partial.notes, *_moved(partial)],
            deviation=None if partial.deviations is None else partial.deviations.cpu().numpy(),
            own=partial,
        )

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep what an exact request leaves in the store; of another where earlier prompts are searched, its own K/V.

        These stay with this strategy and session, up to a quarter of the store's limit and besides it. What stands in
        front of the first chunk is exact, whatever follows: the store has it, too.
        """
        partial = blended(prefilled)
        if prefilled.lease is not None:
            parse("prefix").commit(prefilled, ids, request, ctx)
            return
        prefilled.notes += keep_head(partial, request, ctx)
        if request.keep and request.prompt.searched and partial is not None:
            length, before = min(len(ids), partial.cache.length), ctx.scratch.get(self.name, ())
            turn = 1 + max((one.turn for one in before), default=0)
            kv = partial.cache.read(0, length).compact()
            new = EarlierPrompt.of(ids[:length], kv, self.space(ctx), turn)
            kept = ctx.scratch[self.name] = remembered(before, new, int(_SHARE * ctx.store.limit))
            nbytes = size(sum(one.nbytes for one in kept))
            prefilled.notes.append(f"{self.name} keeps {plural(len(kept), 'prompt')} for this session ({nbytes})")


def blended(prefilled: Prefilled) -> PartialPrefill | None:
    """Return the partial prefill that ``prefilled`` came from, if its cache still holds what that put there.

    None where the prompt was run in full or from a prefix, or where all keys were rotated by other angles meanwhile.
    """
    partial: PartialPrefill | None = prefilled.own
    return None if partial is None or prefilled.cache is not partial.cache else partial


def keep_head(partial: PartialPrefill | None, request: Request, ctx: Context) -> list[str]:
    """Have the store keep the K/V in front of all that was placed in a prompt, or might have been: they are exact.

    Return what is to be said where it has no room for them.
    """
    if partial is None or not request.keep:
        return []
    starts = [*(start for _, start, _ in request.prompt.chunks), *(span.start for _, span, _ in partial.placed)]
    stop = ctx.adapter.capabilities.whole(min(starts, default=0))
    if stop <= partial.prefix:
        return []
    head, ids, space = partial.cache.read(partial.prefix, stop), request.ids[:stop], ctx.space()
    ctx.store.put(space, ids, partial.prefix, head)
    return [] if ctx.store.holds(space, ids) >= stop else not_kept(head.nbytes, ctx)


def provenance(partial: PartialPrefill, chosen: torch.Tensor) -> NDArray[np.uint8]:
    """Return where K/V came from (uint8 ``[n_prompt]``) once the rows ``chosen`` and those ahead were recomputed."""
    sources = np.full(partial.length, Provenance.FRESH, dtype=np.uint8)
    sources[: partial.prefix] = Provenance.PREFIX
    sources[torch.cat([partial.reused, partial.ahead]).cpu().numpy()] = Provenance.CHUNK
    again = torch.cat([chosen, partial.ahead, partial.last]).cpu().numpy()
    usable = sources != Provenance.FRESH
    usable[: partial.known] = True
    sources[again[usable[again]]] = Provenance.RECOMPUTED
    for _, span, encoded in partial.placed:
        if encoded:
            sources[span.start : span.stop] = Provenance.FRESH
    return sources


def _is_new(prompt: Prompt, prefix: int) -> bool:
    """Return whether nothing behind the first ``prefix`` tokens of ``prompt`` was there before, as far as searched."""
    behind = (chunk for chunk, start, _ in prompt.chunks if start >= prefix)  # an answer's last token has no KV yet
    return prompt.searched and not any(chunk.lineage in {"canonical", "exact"} for chunk in behind)


def _continued(request: Request, ctx: Context) -> Prefilled:
    """Run a prompt of which only the beginning is known: nothing has to be moved, so it is exact and kept as such."""
    exact = parse("prefix")
    prefilled = exact.prefill(request, ctx)
    prefilled.by = exact
    why = "nothing had to be moved" if request.prompt.searched else "the prompt has no chunks"
    prefilled.notes.append(f"{why}: exact")
    return prefilled


def _moved(partial: PartialPrefill) -> list[str]:
    """Return the note on runs of earlier prompts: those that are no chunks of their own."""
    spans = [span for chunk, span, _ in partial.placed if chunk.lineage != "canonical"]
    if not spans:
        return []
    tokens = sum(span.length for span in spans)
    ahead = len(partial.ahead)
    first = f"; {ahead} of these ran again before any were chosen: behind what changed, and the newest" if ahead else ""
    where = f"in {plural(len(spans), 'span')}{first}"
    return [f"{plural(tokens, 'token')} of earlier prompts or answers placed here, {where}"]
