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
from nbkv.families.evict.budget import SlotBudget
from nbkv.families.evict.contexts import CompressedContexts, boundary
from nbkv.families.fallback import in_full
from nbkv.families.options import check_choice, check_context, check_count, check_keep
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingCache, EvictingLayer
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.passes import run
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.strategy import Prefilled, Strategy, parse
from nbkv.timing import timed

_OBSERVED = 32  # last rows that look again at a prompt which an inner strategy has run
_INNER = ("none", "prefix", "blend")  # families whose rows stand for the prompt's tokens one by one


@dataclass(kw_only=True, repr=False)
class Evict(Strategy):
    """Hold K/V of at most ``keep`` tokens in each layer: an int counts tokens, a float is a share of those so far.

    The prompt is prefilled in segments of ``stretch`` tokens with eviction after each (chunked prefill), so at most
    ``keep + stretch`` slots are held; policies that are ``whole`` prefill it in one pass. Sliding-window layers hold at
    most their window. ``per``: every K/V ``head`` evicts for itself, or all heads of a ``layer`` evict the same tokens.
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
    observes_decoding: ClassVar[bool] = True  # whether queries of decoded tokens are observed too

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

    def slots_at_a_time(self, limit: int) -> int:  # noqa: ARG002
        """Return how many slots each eviction frees while decoding, of ``limit``; more than one evicts less often."""
        return 1

    # the stages

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` if slots of this model's cache cannot be evicted, or ``inner`` cannot serve it."""
        super().check(adapter)
        if adapter.why_no_dropping:
            message = f"{self.name} cannot serve {adapter.name}: {adapter.why_no_dropping} (full and prefix work)"
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
        known = None if self.context == "none" else self._contexts(ctx).take(request.ids)
        cache = known or EvictingCache(ctx.adapter.n_layers)
        prefilled = Prefilled(
            cache=cache,
            logits=torch.empty(0),
            provenance=np.full(n, Provenance.FRESH, dtype=np.uint8),
            rows=ctx.work(),
            select=ctx.work(),
            load_s=clock(),
            own=SlotBudget(self.keep, n),
        )
        split, begun = boundary(self.context, request.prompt), cache.seen
        if known is not None:
            _reused(known, prefilled, ctx)
        elif self.inner != "full":
            self._prefill_by_inner(_first(request, split), prefilled, ctx)
        for stop in sorted({split, n}):
            if cache.seen < stop:
                prefilled.logits = self._pass(request.ids[cache.seen : stop], prefilled, ctx)
            if stop == split < n and begun < split and request.keep:
                self._contexts(ctx).put(request.ids[:split], cache.copy())
        return prefilled

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Evict until one more token fits, then run the decoded ``token``; return the logits ``[V]`` after it."""
        cache = prefilled.cache
        if not isinstance(cache, EvictingCache):  # the prompt was run in full
            return super().step(token, at, prefilled, ctx, work)
        self._shrink(prefilled, ctx, coming=1)
        look = self.look(1) if self.observes_decoding else 0
        return self._run([token], cache, ctx, look=look, work=work)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Fill ``kept`` and the notes; with ``context="turns"`` hold the compressed cache for the chat's next turn."""
        cache = prefilled.cache
        if not isinstance(cache, EvictingCache):
            return
        prefilled.kept = cache.kept(len(request.ids)).numpy()
        held = f"{self.name}: {cache.share():.0%} of the K/V of {cache.seen} tokens held"
        prefilled.notes.append(f"{held}, {cache.nbytes / 2**20:.2f} MiB; {cache.peak / 2**20:.2f} MiB at the peak")
        if self.context == "turns" and request.keep and cache.complete:
            self._contexts(ctx).put(ids[: cache.seen], cache)

    # inside

    def _pass(self, ids: Sequence[int], prefilled: Prefilled, ctx: Context) -> torch.Tensor:
        """Prefill ``ids`` in segments of ``stretch`` tokens, evicting after each; return the last logits ``[V]``."""
        cache, stretch = prefilled.cache, len(ids) if self.whole else self.stretch
        assert isinstance(cache, EvictingCache)  # noqa: S101
        logits = prefilled.logits
        for start in range(0, len(ids), stretch):
            part = ids[start : start + stretch]
            self._limit(prefilled, ctx, cache.seen + len(part))
            logits = self._run(part, cache, ctx, look=self.look(len(part)), work=prefilled.rows)
            self._shrink(prefilled, ctx)
        return logits

    def _run(
        self, ids: Sequence[int], cache: EvictingCache, ctx: Context, *, look: int, work: Work | None
    ) -> torch.Tensor:
        start = cache.seen

        def see(seen: Attended) -> None:
            layer = cache.layers[seen.layer]
            self.see(layer, seen.weights.unflatten(0, (len(layer.positions), -1)), start + seen.rows)

        look = 0 if self.keep == 1.0 else look  # nothing will ever have to go
        return run(ctx.adapter, ctx.adapter.tensor(ids), cache, see=see, look=look, work=work)

    def _limit(self, prefilled: Prefilled, ctx: Context, seen: int) -> None:
        """Set each layer's limit of slots for a sequence of ``seen`` tokens; its buffers grow no larger."""
        slots = prefilled.own.slots(seen)
        for layer, window in zip(prefilled.cache.layers, ctx.adapter.capabilities.windows, strict=True):  # type: ignore[union-attr]
            layer.limit = min(slots, window or slots)

    def _shrink(self, prefilled: Prefilled, ctx: Context, coming: int = 0) -> None:
        """Evict the lowest scores until every layer is within its limit with ``coming`` tokens more."""
        cache = prefilled.cache
        assert isinstance(cache, EvictingCache)  # noqa: S101
        self._limit(prefilled, ctx, cache.seen + coming)
        before, slots = cache.nbytes, prefilled.own.slots(cache.seen + coming)
        windows = ctx.adapter.capabilities.windows
        most = max(self._evict_to_limit(*each, slots, coming) for each in zip(cache.layers, windows, strict=True))
        if most > 1:
            ctx.tell(Evicted, tokens=most, nbytes=before - cache.nbytes, tier="working")

    def _evict_to_limit(self, layer: EvictingLayer, window: int | None, slots: int, coming: int = 0) -> int:
        """Evict the lowest scores of one layer down to its limit; return how many slots of each head were freed."""
        before = layer.length
        if before + coming > layer.limit:
            # what a sliding window leaves in sight may only go for want of room, not ahead of time
            spare = self.slots_at_a_time(layer.limit) if layer.limit == slots else coming
            self._evict(layer, layer.limit - (spare if coming else 0), window)
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

    def _prefill_by_inner(self, request: Request, prefilled: Prefilled, ctx: Context) -> None:
        """Prefill with the inner strategy, copy its K/V, and run the last rows again as observed queries."""
        inner, n = parse(self.inner), len(request.ids)
        given = inner.prefill(request, ctx)
        keeping = replace(request, keep=False)
        try:
            look = 0 if self.keep == 1.0 else min(self.look(n), _OBSERVED, n - 1, _rerunnable(given))
            self._copy(given.cache, n - look, prefilled, ctx, look=look)
            prefilled.logits = given.logits
            if look:
                rows = request.ids[n - look :]
                prefilled.logits = self._run(rows, prefilled.cache, ctx, look=look, work=given.select)  # type: ignore[arg-type]
            keeping = request
        finally:
            inner.commit(given, request.ids, keeping, ctx)
        self._shrink(prefilled, ctx)
        prefilled.provenance[:n] = given.provenance
        prefilled.rows, prefilled.select = given.rows, given.select
        prefilled.load_s, prefilled.select_s = prefilled.load_s + given.load_s, given.select_s
        held = f"{inner.spec} held {n} tokens of KV of its own meanwhile, which no peak here counts"
        prefilled.notes += [held, *(f"{inner.spec}: {note}" for note in given.notes)]

    def _copy(self, source: object, n: int, prefilled: Prefilled, ctx: Context, *, look: int) -> None:
        """Copy the K/V of the first ``n`` tokens of ``source``; if no rows will be observed, evict layer by layer."""
        cache = prefilled.cache
        assert isinstance(cache, EvictingCache)  # noqa: S101
        assert isinstance(source, GrowingCache)  # noqa: S101
        self._limit(prefilled, ctx, n)
        kv, slots, windows = source.read(0, n), prefilled.own.slots(n), ctx.adapter.capabilities.windows
        for layer, window, keys, values in zip(cache.layers, windows, kv.keys, kv.values, strict=True):
            layer.update(keys[None], values[None])
            if not look:
                self._evict_to_limit(layer, window, slots)

    def _contexts(self, ctx: Context) -> CompressedContexts:
        return CompressedContexts(ctx.scratch, self.name, self.spec, ctx.space(f"approx:{self.name}"), self.contexts)


def _rerunnable(given: Prefilled) -> int:
    """Return how many last rows give the same K/V when run again: all behind the last one placed from a chunk."""
    placed = np.isin(given.provenance, (Provenance.CHUNK, Provenance.CORRECTED)).nonzero()[0]
    return len(given.provenance) - (int(placed[-1]) + 1 if len(placed) else 0)


def _first(request: Request, n: int) -> Request:
    """Return the request for the first ``n`` tokens of its prompt."""
    prompt = request.prompt
    chunks = tuple(each for each in prompt.chunks if each[2] <= n)
    return replace(request, prompt=replace(prompt, ids=prompt.ids[:n], chunks=chunks))


def _reused(known: EvictingCache, prefilled: Prefilled, ctx: Context) -> None:
    """Mark the tokens of ``known``, a compressed cache, as reused: provenance, event and note."""
    prefilled.provenance[: known.seen] = Provenance.PREFIX
    ctx.tell(Reused, start=0, stop=known.seen, tier="shelf")
    share = f"{known.share():.0%} of their K/V"
    prefilled.notes.append(f"went on from {known.seen} tokens held compressed on this session's shelf ({share})")
