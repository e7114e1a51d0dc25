"""Eviction: K/V of most tokens are dropped for good, so that a layer never holds more than ``keep`` cache slots.

Kept tokens keep their positions (rotary embedding and causal mask are those of the whole sequence). A policy says which
query rows it observes (``look``), what it accumulates of their attention weights for each slot (``see``), and each
slot's eviction score (``worth``): the slots with the lowest scores are evicted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.events import Evicted, Reused
from nbkv.families.evict.budget import BudgetedCache, SlotBudget
from nbkv.families.evict.contexts import CompressedContexts, RestingContexts, boundary
from nbkv.families.fallback import in_full
from nbkv.families.options import check_choice, check_context, check_count, check_keep
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.evicting import EvictingCache, EvictingLayer
from nbkv.models.passes import over_slots
from nbkv.models.probing.eviction import why_not
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.show.units import plural, share, size
from nbkv.strategy import Prefilled, Strategy, parse
from nbkv.timing import timed

_OBSERVED = 32  # last rows that look again at a prompt which an inner strategy has run
_INNER = ("none", "prefix", "blend")  # families whose rows stand for the prompt's tokens one by one


@dataclass(kw_only=True, repr=False)
class Evict(Strategy):
    """Hold K/V of at most ``keep`` tokens in each layer: an int counts tokens, a float is a share of those so far.

    The prompt is prefilled in segments of ``stretch`` tokens with eviction after each (chunked prefill), so at most
    ``keep + stretch`` slots are held; policies that are ``whole`` prefill it in one pass. Sliding-window layers hold at
    most their window. A policy with a ``lag`` waits and holds more meanwhile. ``per``: every K/V ``head`` evicts for
    itself, or all heads of a ``layer`` evict the same tokens.
    ``Result.kept`` is false for prompt tokens that no head of any layer holds in the end.

    ``inner``: the strategy that prefills the prompt instead. Its K/V are copied into this cache, the prompt's last rows
    (at most 32) are run again as observed queries, which counts as selection, and slots are evicted from the copy. What
    it keeps in the store stays whole there, within the store's limit.

    ``context``: which compressed caches the session holds for later prompts with the same first tokens. ``"chunks"``:
    the prompt up to its last chunk (a number: its first so many tokens), compressed before the question is known;
    ``"turns"``: prompt and answer, so that a chat continues from them. At most ``contexts`` are held.
    """

    family: ClassVar[str] = "evict"
    exact: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("prefix", "causal", "per_token")
    contract_exempt: ClassVar[dict[str, str]] = {
        "test_one_first_chunk_behind_bos_equals_prefix": "below keep=1.0 K/V is dropped for good; at 1.0 it equals full"
    }
    whole: ClassVar[bool] = False  # whether the prompt has to be prefilled in one pass
    observes_prompt: ClassVar[bool] = True  # whether queries of the prompt are observed
    observes_decoding: ClassVar[bool] = True  # whether queries of decoded tokens are observed too
    at_rest: ClassVar[str] = ""  # the form of tiers in which contexts outlive the session: they depend on tokens alone

    keep: float = 0.5
    per: str = "head"
    inner: str = "full"
    context: str | int = "none"
    contexts: int = 4
    stretch: int = 512

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range, and for an ``inner`` strategy whose rows are no tokens."""
        check_keep(self)
        check_context(self)
        check_count(self, "contexts", "stretch", least=1)
        check_choice(self, "per", ("head", "layer"))
        if self.inner != "full" and parse(self.inner).family not in _INNER:
            message = f"inner={self.inner!r} is not accepted: inner is full, prefix or a chunk strategy of family blend"
            raise BadOption(message)

    # what a policy adds

    def look(self, n: int) -> int:  # noqa: ARG002
        """Return how many query rows ``see`` observes, the last ones of a pass of ``n``; none by default."""
        return 0

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """Accumulate statistics of the observed query rows at positions ``rows`` ``[n]``, in ``layer.mark``.

        ``weights``: their attention weights, float32 ``[H_k, G, n, T]`` over the layer's ``T`` slots, of the ``G``
        query heads that share each of ``H_k`` K/V heads. A statistic has one value for each K/V head and slot.
        """

    @abstractmethod
    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return the eviction scores ``[H_k, T]`` before position ``at`` runs; the ``room`` highest a head stay."""

    def weigh(self, ids: Sequence[int], held: BudgetedCache, work: Work, ctx: Context) -> None:
        """Look at a context ``ids`` that has run, in all or its last tokens, before any of it is evicted."""

    def lost(self, held: BudgetedCache) -> float:  # noqa: ARG002
        """Return how far the cache is from that of all tokens, from 0 to 1, by what was weighed; nothing by default."""
        return 0.0

    @property
    def lag(self) -> int:
        """Return after how many decoded tokens each eviction comes, down to ``keep``; the prompt stays till the first.

        0, the default: the prompt is evicted from too, and while decoding as soon as a token more would be above.
        """
        return 0

    # the stages

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` if slots of this model's cache cannot be evicted, or ``inner`` cannot serve it."""
        super().check(adapter)
        if why := why_not(adapter):
            message = f"{self.name} cannot serve {adapter.name}: {why} (full and prefix work)"
            raise UnsupportedModel(message)
        if self.inner != "full":
            parse(self.inner).check(adapter)

    def at_full_budget(self) -> Strategy | None:
        """Return this strategy keeping every token."""
        return replace(self, keep=1.0)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Prefill the prompt, evicting down to ``keep`` slots a layer; return its cache and last logits.

        A compressed cache of its first tokens is continued where the session holds one (``context``), else ``inner``
        prefills up to the boundary of ``context``; the rest runs in segments. The compressed cache of the tokens before
        the boundary is kept for later prompts. A prompt beyond the trained length runs in full, without eviction.
        """
        n, clock = len(request.ids), timed()
        if n + request.max_new_tokens > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no eviction")
        known, tier = (None, "") if self.context == "none" else self._contexts(ctx).take(request.ids)
        held = BudgetedCache(known or EvictingCache(ctx.adapter.n_layers), SlotBudget(self.keep, n))
        cache = held.cache
        prefilled = Prefilled(
            cache=cache,
            logits=torch.empty(0),
            provenance=np.full(n, Provenance.FRESH, dtype=np.uint8),
            rows=ctx.work(),
            select=ctx.work(),
            load_s=clock(),
            own=held,
        )
        split, begun = boundary(self.context, request.prompt), cache.seen
        if known is not None:
            _reused(known, prefilled, ctx, tier)
        elif self.inner != "full":
            self._prefill_by_inner(_first(request, split), held, prefilled, ctx)
        for stop in sorted({split, n}):
            if cache.seen < stop:
                ran = request.ids[cache.seen : stop]
                prefilled.logits = self._pass(ran, held, prefilled, ctx, weighed=stop == split)
            if stop == split < n and begun < split and request.keep:
                self._contexts(ctx).put_to_rest(request.ids[:split], cache.copy(), self.lost(held))
        return prefilled

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Evict until one more token fits, then run the decoded ``token``; return the logits ``[V]`` after it."""
        held = _held(prefilled)
        if held is None:  # the prompt was run in full
            return super().step(token, at, prefilled, ctx, work)
        self._shrink(held, ctx, coming=1)
        look = self.look(1) if self.observes_decoding else 0
        return self._run([token], held.cache, ctx, look=look, work=work)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Fill ``kept`` and the notes; with ``context="turns"`` hold the compressed cache for the chat's next turn."""
        held = _held(prefilled)
        if held is None:
            return
        cache = held.cache
        prefilled.kept = cache.kept(len(request.ids)).numpy()
        told = f"{self.name}: {share(cache.share())} of the K/V of {plural(cache.seen, 'token')} held"
        prefilled.notes.append(f"{told}, {size(cache.nbytes)}; {size(cache.peak)} at the peak")
        if self.context == "turns" and request.keep and cache.complete:
            self._contexts(ctx).put(ids[: cache.seen], cache)

    # inside

    def _pass(
        self, ids: Sequence[int], held: BudgetedCache, prefilled: Prefilled, ctx: Context, *, weighed: bool
    ) -> torch.Tensor:
        """Prefill ``ids`` in segments of ``stretch`` tokens, evicting after each; return the last logits ``[V]``.

        The end of a context is ``weighed``.
        """
        cache, stretch = held.cache, len(ids) if self.whole else self.stretch
        logits = torch.empty(0)
        for start in range(0, len(ids), stretch):
            part = ids[start : start + stretch]
            self._limit(held, ctx, cache.seen + len(part))
            look = self.look(len(part)) if self.observes_prompt else 0
            logits = self._run(part, cache, ctx, look=look, work=prefilled.rows)
            if weighed and start + stretch >= len(ids) and self.keep != 1.0:
                self.weigh(ids, held, prefilled.select, ctx)
            self._shrink(held, ctx)
        return logits

    def _run(
        self, ids: Sequence[int], cache: EvictingCache, ctx: Context, *, look: int, work: Work | None
    ) -> torch.Tensor:
        start = cache.seen

        def observe(attended: Attended) -> None:
            layer = cache.layers[attended.layer]
            self.see(layer, attended.weights.unflatten(0, (len(layer.positions), -1)), start + attended.rows)

        look = 0 if self.keep == 1.0 else look  # nothing will ever have to go
        return over_slots(ctx.adapter, ctx.adapter.tensor(ids), cache, observe=observe, observed=look, work=work)

    def _limit(self, held: BudgetedCache, ctx: Context, seen: int) -> None:
        """Set each layer's limit of slots for a sequence of ``seen`` tokens; its buffers grow no larger."""
        slots, prompt = held.budget.slots(seen), held.budget.prompt
        stays = prompt if self.lag >= max(1, seen - prompt) else 0
        for layer, window in zip(held.cache.layers, ctx.adapter.capabilities.windows, strict=True):
            layer.limit = max(min(slots, window or slots), stays) + self.lag

    def _shrink(self, held: BudgetedCache, ctx: Context, coming: int = 0) -> None:
        """Evict the lowest scores, if it is time, until every layer has room in its budget for ``coming`` tokens."""
        cache, before = held.cache, held.cache.nbytes
        self._limit(held, ctx, cache.seen + coming)
        decoded = cache.seen - held.budget.prompt
        if self.lag and (decoded < 1 or decoded % self.lag):
            return
        room = held.budget.slots(cache.seen + coming)
        windows = ctx.adapter.capabilities.windows
        most = max(self._evict_to(room, *each, coming) for each in zip(cache.layers, windows, strict=True))
        if most > 1:
            ctx.tell(Evicted, tokens=most, nbytes=before - cache.nbytes, tier="working")

    def _evict_to(self, slots: int, layer: EvictingLayer, window: int | None, coming: int = 0) -> int:
        """Evict the lowest scores of one layer down to ``slots``; return how many slots of each head were freed."""
        before, room = layer.length, min(slots, window or slots) - (0 if self.lag else coming)
        if before > room:
            self._evict(layer, room, window)
        return before - layer.length

    def _evict(self, layer: EvictingLayer, room: int, window: int | None) -> None:
        at = layer.seen
        worth = self.worth(layer, at, room)
        if self.per == "layer":
            worth = worth.sum(dim=0, keepdim=True).expand_as(worth)
        if window is not None:
            worth = worth.masked_fill(layer.positions <= at - window, float("-inf"))
        if layer.length - room == 1 and layer.capacity <= layer.limit:
            layer.drop(worth.argmin(dim=-1))
        else:
            layer.keep(worth.topk(room, dim=-1).indices.sort(dim=-1).values)

    def _prefill_by_inner(self, request: Request, held: BudgetedCache, prefilled: Prefilled, ctx: Context) -> None:
        """Prefill with the inner strategy, copy its K/V, and run the last rows again as observed queries."""
        inner, n = parse(self.inner), len(request.ids)
        given = inner.prefill(request, ctx)
        keeping = replace(request, keep=False)
        try:
            seen = self.observes_prompt and self.keep != 1.0
            look = min(self.look(n), _OBSERVED, n - 1, _rerunnable(given)) if seen else 0
            self._copy(given.cache, n - look, held, ctx, look=look)
            prefilled.logits = given.logits
            if look:
                rows = request.ids[n - look :]
                prefilled.logits = self._run(rows, held.cache, ctx, look=look, work=given.select)
            keeping = request
        finally:
            inner.commit(given, request.ids, keeping, ctx)
        self._shrink(held, ctx)
        prefilled.provenance[:n] = given.provenance
        prefilled.rows, prefilled.select = given.rows, given.select
        prefilled.load_s, prefilled.select_s = prefilled.load_s + given.load_s, given.select_s
        meanwhile = f"{inner.spec} held {plural(n, 'token')} of KV of its own meanwhile, which no peak here counts"
        prefilled.notes += [meanwhile, *(f"{inner.spec}: {note}" for note in given.notes)]

    def _copy(self, source: SequenceCache, n: int, held: BudgetedCache, ctx: Context, *, look: int) -> None:
        """Copy the K/V of the first ``n`` tokens of ``source``; if no rows will be observed, evict layer by layer."""
        self._limit(held, ctx, n)
        kv, slots, windows = source.read(0, n), held.budget.slots(n), ctx.adapter.capabilities.windows
        for layer, window, keys, values in zip(held.cache.layers, windows, kv.keys, kv.values, strict=True):
            layer.update(keys[None], values[None])
            if not look and not self.lag:
                self._evict_to(slots, layer, window)

    def _contexts(self, ctx: Context) -> CompressedContexts:
        space, resting = ctx.space(f"approx:{self.name}"), RestingContexts.of(self.at_rest, self.spec, ctx)
        return CompressedContexts(ctx.scratch, self.name, self.spec, space, self.contexts, resting)


def _held(prefilled: Prefilled) -> BudgetedCache | None:
    """Return the cache that is evicted from; None where the prompt was run in full."""
    held: BudgetedCache | None = prefilled.own
    return held if held is not None and prefilled.cache is held.cache else None


def _rerunnable(given: Prefilled) -> int:
    """Return how many last rows give the same K/V when run again: all behind the last one placed from a chunk."""
    placed = np.isin(given.provenance, (Provenance.CHUNK, Provenance.CORRECTED)).nonzero()[0]
    return len(given.provenance) - (int(placed[-1]) + 1 if len(placed) else 0)


def _first(request: Request, n: int) -> Request:
    """Return the request for the first ``n`` tokens of its prompt."""
    prompt = request.prompt
    chunks = tuple(each for each in prompt.chunks if each[2] <= n)
    return replace(request, prompt=replace(prompt, ids=prompt.ids[:n], chunks=chunks))


def _reused(known: EvictingCache, prefilled: Prefilled, ctx: Context, tier: str) -> None:
    """Mark the tokens of ``known``, a compressed cache, as reused: provenance, event and note."""
    prefilled.provenance[: known.seen] = Provenance.PREFIX
    ctx.tell(Reused, start=0, stop=known.seen, tier=tier)
    held, where = f"{share(known.share())} of their K/V", "on this session's shelf" if tier == "shelf" else f"in {tier}"
    prefilled.notes.append(f"went on from {plural(known.seen, 'token')} held compressed {where} ({held})")
