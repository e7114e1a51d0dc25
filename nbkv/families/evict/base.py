"""Eviction: K/V of most tokens is dropped for good, so that a layer never holds more than ``keep`` of them.

Positions stay true: what is kept is seen where it always stood. What a method adds is what it notes of the slots when
rows look at them (``see``) and what they are then worth (``worth``); the lowest go.
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
from nbkv.families.evict.contexts import CompressedContexts, boundary, check_context
from nbkv.families.fallback import in_full
from nbkv.families.options import check_count, check_keep
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.evicting import EvictingCache, EvictingLayer
from nbkv.models.passes import over_slots
from nbkv.models.probing.eviction import why_not
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.strategy import Prefilled, Strategy, parse
from nbkv.timing import timed

_OBSERVED = 32  # last rows that look again at a prompt which an inner strategy has run
_INNER = ("none", "prefix", "blend")  # families whose rows stand for the prompt's tokens one by one


@dataclass(frozen=True, eq=False)
class BudgetedCache:
    """The cache of one request, and how much of it may stay."""

    cache: EvictingCache
    budget: SlotBudget


@dataclass(kw_only=True, repr=False)
class Evict(Strategy):
    """Hold K/V of at most ``keep`` tokens in each layer: an int counts tokens, a float is a share of those so far.

    ``keep`` bounds what stays: the prompt is run in ``stretch`` tokens at a time with eviction after each, so that at
    most ``keep`` and one stretch are held (``whole`` methods need the whole prompt at once). Sliding-window layers hold
    at most their window. ``per``: each K/V ``head`` keeps its own tokens, or all heads of a ``layer`` the same.
    ``Result.kept`` is false for prompt tokens that no head of any layer holds in the end.

    ``inner``: another strategy that runs the prompt; its KV is copied here, looked at by the prompt's last rows (at
    most 32, which counts as selection), and evicted from. What it keeps in the store stays whole there, within the
    store's limit.

    ``context``: what is held compressed on this session's shelf for later prompts that begin alike. ``"chunks"``: the
    prompt up to its last chunk, or up to that many tokens where a number is given, compressed before what follows is
    known; ``"turns"``: prompt and answer, so that a chat goes on where it was. At most ``contexts`` are held.
    """

    family: ClassVar[str] = "evict"
    exact: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("prefix", "causal", "per_token")
    contract_exempt: ClassVar[dict[str, str]] = {
        "test_one_first_chunk_behind_bos_equals_prefix": "below keep=1.0 K/V is dropped for good; at 1.0 it equals full"
    }
    whole: ClassVar[bool] = False  # whether the prompt has to be run at once
    follows: ClassVar[bool] = True  # whether decoded tokens are looked at too

    keep: float = 0.5
    per: str = "head"
    inner: str = "full"
    context: str | int = "none"
    contexts: int = 4
    stretch: int = 512

    def __post_init__(self) -> None:
        """Refuse what is no budget, no boundary, no strategy to prefill with."""
        check_keep(self.keep)
        check_context(self.context)
        check_count("contexts", self.contexts, least=1)
        check_count("stretch", self.stretch, least=1)
        if self.per not in {"head", "layer"}:
            message = f"per={self.per!r} is not accepted: per is 'head' or 'layer'"
            raise BadOption(message)
        if self.inner != "full" and parse(self.inner).family not in _INNER:
            message = f"inner={self.inner!r} is not accepted: inner is full, prefix or a chunk strategy of family blend"
            raise BadOption(message)

    # what a method adds

    def look(self, n: int) -> int:  # noqa: ARG002
        """Return how many of a pass's last rows, of ``n``, are to be shown to ``see``; none by default."""
        return 0

    def see(self, layer: EvictingLayer, weights: torch.Tensor, rows: torch.Tensor) -> None:
        """Note what ``rows`` (positions ``[n]``) attend to: ``weights`` float32 ``[H_k, G, n, T]`` over the slots.

        ``G`` are the query heads that share a K/V head: what is noted must not grow with them.
        """

    @abstractmethod
    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:
        """Return what each slot is worth, ``[H, T]``, when position ``at`` is next and ``room`` slots may stay."""

    def spare(self, limit: int) -> int:  # noqa: ARG002
        """Return how many slots to free at a time while the answer is decoded, of ``limit``."""
        return 1

    # the stages

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` if tokens cannot be dropped from this model's cache."""
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
        """Run the prompt, or what of it is not held compressed already, and drop what is above ``keep``."""
        n, clock = len(request.ids), timed()
        if n + request.max_new_tokens > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no eviction")
        known = None if self.context == "none" else self._contexts(ctx).take(request.ids)
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
            _reused(known, prefilled, ctx)
        elif self.inner != "full":
            self._by_inner(_first(request, split), held, prefilled, ctx)
        for stop in sorted({split, n}):
            if cache.seen < stop:
                prefilled.logits = self._pass(request.ids[cache.seen : stop], held, prefilled.rows, ctx)
            if stop == split < n and begun < split and request.keep:
                self._contexts(ctx).put(request.ids[:split], cache.copy())
        return prefilled

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Make room for one decoded token, then run it."""
        held = _held(prefilled)
        if held is None:  # the prompt was run in full
            return super().step(token, at, prefilled, ctx, work)
        self._shrink(held, ctx, coming=1)
        look = self.look(1) if self.follows else 0
        return self._run([token], held.cache, ctx, look=look, work=work)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Say what was kept, and hold it for the next turn where ``context`` asks for that."""
        held = _held(prefilled)
        if held is None:
            return
        cache = held.cache
        prefilled.kept = cache.kept(len(request.ids)).numpy()
        told = f"{self.name}: {cache.share():.0%} of the K/V of {cache.seen} tokens held"
        prefilled.notes.append(f"{told}, {cache.nbytes / 2**20:.2f} MiB; {cache.peak / 2**20:.2f} MiB at the peak")
        if self.context == "turns" and request.keep and cache.complete:
            self._contexts(ctx).put(ids[: cache.seen], cache)

    # inside

    def _pass(self, ids: Sequence[int], held: BudgetedCache, work: Work, ctx: Context) -> torch.Tensor:
        """Run ``ids`` next, a stretch at a time, and drop what is too much after each; return the last logits."""
        cache, stretch = held.cache, len(ids) if self.whole else self.stretch
        logits = torch.empty(0)
        for start in range(0, len(ids), stretch):
            part = ids[start : start + stretch]
            self._limit(held, ctx, cache.seen + len(part))
            logits = self._run(part, cache, ctx, look=self.look(len(part)), work=work)
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
        """Let no layer's buffers grow beyond what it may hold when ``seen`` tokens have come by."""
        slots = held.budget.slots(seen)
        for layer, window in zip(held.cache.layers, ctx.adapter.capabilities.windows, strict=True):
            layer.limit = min(slots, window or slots)

    def _shrink(self, held: BudgetedCache, ctx: Context, coming: int = 0) -> None:
        """Drop what is worth least until each layer keeps its limit with ``coming`` tokens more."""
        cache = held.cache
        self._limit(held, ctx, cache.seen + coming)
        before, slots = cache.nbytes, held.budget.slots(cache.seen + coming)
        windows = ctx.adapter.capabilities.windows
        most = max(self._fit(*each, slots, coming) for each in zip(cache.layers, windows, strict=True))
        if most > 1:
            ctx.tell(Evicted, tokens=most, nbytes=before - cache.nbytes, tier="working")

    def _fit(self, layer: EvictingLayer, window: int | None, slots: int, coming: int = 0) -> int:
        """Drop what is worth least of one layer, if it holds too much; return how many slots of each head went."""
        before = layer.length
        if before + coming > layer.limit:
            # what a sliding window leaves in sight may only go for want of room, not ahead of time
            spare = self.spare(layer.limit) if layer.limit == slots else coming
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

    def _by_inner(self, request: Request, held: BudgetedCache, prefilled: Prefilled, ctx: Context) -> None:
        """Let the inner strategy run the prompt, copy its KV, and look at it with the last rows."""
        inner, n = parse(self.inner), len(request.ids)
        given = inner.prefill(request, ctx)
        keeping = replace(request, keep=False)
        try:
            look = 0 if self.keep == 1.0 else min(self.look(n), _OBSERVED, n - 1, _rerunnable(given))
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
        meanwhile = f"{inner.spec} held {n} tokens of KV of its own meanwhile, which no peak here counts"
        prefilled.notes += [meanwhile, *(f"{inner.spec}: {note}" for note in given.notes)]

    def _copy(self, source: SequenceCache, n: int, held: BudgetedCache, ctx: Context, *, look: int) -> None:
        """Take the K/V of the first ``n`` tokens of ``source``; without a ``look`` to come, drop layer by layer."""
        self._limit(held, ctx, n)
        kv, slots, windows = source.read(0, n), held.budget.slots(n), ctx.adapter.capabilities.windows
        for layer, window, keys, values in zip(held.cache.layers, windows, kv.keys, kv.values, strict=True):
            layer.update(keys[None], values[None])
            if not look:
                self._fit(layer, window, slots)

    def _contexts(self, ctx: Context) -> CompressedContexts:
        return CompressedContexts(ctx.scratch, self.name, self.spec, ctx.space(f"approx:{self.name}"), self.contexts)


def _held(prefilled: Prefilled) -> BudgetedCache | None:
    """Return the cache that is evicted from; None where the prompt was run in full."""
    held: BudgetedCache | None = prefilled.own
    return held if held is not None and prefilled.cache is held.cache else None


def _rerunnable(given: Prefilled) -> int:
    """Return how many last rows give the same K/V when run again: those that were not placed from elsewhere."""
    placed = np.isin(given.provenance, (Provenance.CHUNK, Provenance.CORRECTED)).nonzero()[0]
    return len(given.provenance) - (int(placed[-1]) + 1 if len(placed) else 0)


def _first(request: Request, n: int) -> Request:
    """Return the request for the first ``n`` tokens of its prompt."""
    prompt = request.prompt
    chunks = tuple(each for each in prompt.chunks if each[2] <= n)
    return replace(request, prompt=replace(prompt, ids=prompt.ids[:n], chunks=chunks))


def _reused(known: EvictingCache, prefilled: Prefilled, ctx: Context) -> None:
    """Say that the first tokens are ``known``, compressed."""
    prefilled.provenance[: known.seen] = Provenance.PREFIX
    ctx.tell(Reused, start=0, stop=known.seen, tier="shelf")
    share = f"{known.share():.0%} of their K/V"
    prefilled.notes.append(f"went on from {known.seen} tokens held compressed on this session's shelf ({share})")
