"""One face for every decoder: forward over rows at positions with our cache, through the walk where it is proved."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, LinearAttentionLayer

from nbkv.models.attention import masks
from nbkv.models.attention.intercept import implementation
from nbkv.models.attention.ranges import ranged, reads_once
from nbkv.models.caches.branch import BranchCache, branched
from nbkv.models.caches.growing import GrowingCache, TokenLog
from nbkv.models.caches.opaque import OpaqueCache
from nbkv.models.caches.recurrent import StateCache, ours
from nbkv.models.capabilities import Capabilities
from nbkv.models.diffusion.canvas import CanvasDecoder
from nbkv.models.diffusion.recipe import Recipe
from nbkv.models.identity.devices import compute_dtype, input_device, run_device
from nbkv.models.identity.fingerprint import Identity
from nbkv.models.identity.record import Record
from nbkv.models.input_embeddings import embeddings_work
from nbkv.models.probing.eviction import why_not
from nbkv.models.walk import Halted, LayerCall, LayerRange, Runner, Walk
from nbkv.models.work import LayerFront, Unfollowed, Work, begin
from nbkv.rope import Rope

AnyCache = Cache | TokenLog
_STRIP = 1024  # rows of a block-diffusion prompt that run together where they need a mask: rows x keys


@dataclass(eq=False)
class ModelAdapter:
    """A transformers causal language model as nbkv runs it; made by ``nbkv.models.probing.probe.adapt``.

    ``tells_positions``: positions are given explicitly, counted from 0; not to families that count them in another way.
    ``rope`` moves cached keys to other positions; None where that cannot be done exactly. ``recipe`` is how a
    block-diffusion model is decoded, ``canvas`` what does that for DiffusionGemma; both None for a causal one.
    """

    model: PreTrainedModel
    name: str
    capabilities: Capabilities
    walk: Walk | None
    record: Record | None
    tells_positions: bool = True
    rope: Rope | None = None
    recipe: Recipe | None = None
    canvas: CanvasDecoder | None = None

    def __post_init__(self) -> None:
        """Learn which optional arguments the model's forward takes."""
        inside = getattr(self.model, "get_base_model", lambda: self.model)()  # a PEFT wrapper hands everything on to it
        self._accepts = frozenset(inspect.signature(inside.forward).parameters)
        self._identity = Identity(self.model)
        self.device = input_device(self.model)
        self.dtype = compute_dtype(self.model)

    @property
    def devices(self) -> tuple[str, ...]:
        """Return the device of each layer, where its K/V is made; the model's own if it cannot be walked."""
        if self.walk is None:
            return (str(self.device),)
        return tuple(str(run_device(layer, self.device)) for layer in self.walk.layers)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the self-check found that a user should know."""
        return () if self.record is None else self.record.notes

    @property
    def keeps_states(self) -> bool:
        """Return whether the model's forward takes a cache of states instead of past keys and values."""
        return "past_key_values" not in self._accepts and bool({"cache_params", "state"} & self._accepts)

    @cached_property
    def _hands_back(self) -> bool:
        """Whether the forward takes and hands back states in an object of the family's own."""
        return self.keeps_states and not any(
            isinstance(layer, LinearAttentionLayer) for layer in self.family_cache().layers
        )

    @property
    def _cache_name(self) -> str:
        """Return which argument of the forward takes the cache."""
        if not self.keeps_states:
            return "past_key_values"
        return "cache_params" if "cache_params" in self._accepts else "state"

    @cached_property
    def takes_embeddings(self) -> bool:
        """Return whether embeddings can be given in place of token ids (``models.soft``); tried at the first ask."""
        return embeddings_work(self)

    @cached_property
    def why_no_dropping(self) -> str:
        """Return why tokens cannot be dropped from its cache, empty if they can; tried once."""
        return why_not(self)

    @property
    def n_layers(self) -> int:
        """Return the number of decoder layers."""
        return self.capabilities.n_layers

    @cached_property
    def weights(self) -> int:
        """Return the number of weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def config(self) -> Any:  # noqa: ANN401  (each family has its own class)
        """Return the config of the text decoder."""
        return self.model.config.get_text_config()

    @property
    def fingerprint(self) -> str:
        """Return what identifies the weights, quantisation and active adapters; changes when any of them does."""
        return self._identity.digest

    def tensor(self, ids: Sequence[int]) -> torch.Tensor:
        """Return token ids ``[n]`` on the model's device."""
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def new_cache(self, reserve: int = 0) -> AnyCache:
        """Return an empty cache: ours if it passed the self-test, else the family's own, else a log of the tokens."""
        if self.capabilities.prefix:
            return self.growing(reserve + (self.capabilities.block or 0))
        own = self.capabilities.own_cache and self.capabilities.block is None
        return self.family_cache() if own else TokenLog()

    def growing(self, reserve: int = 0) -> GrowingCache:
        """Return an empty cache of ours, with room for states where this model keeps some."""
        return self.stateful(reserve) if self.capabilities.states else GrowingCache(reserve)

    def branch_at(self, base: int) -> BranchCache:
        """Return a cache for a sequence's tokens from ``base`` on, without those before; needs ``branches``."""
        return BranchCache(base, self.n_layers)

    def stateful(self, reserve: int = 0) -> StateCache:
        """Return an empty cache for states, proved or not; raises ``TypeError`` for layers that it has none for."""
        return OpaqueCache() if self._hands_back else StateCache(ours(self.family_cache(), reserve), reserve)

    def family_cache(self) -> Cache:
        """Return an empty cache of the kind transformers makes for this model."""
        return DynamicCache(config=self.config)

    def forward(
        self,
        ids: torch.Tensor,
        cache: AnyCache,
        *,
        start: int,
        keep: int = 1,
        work: Work | None = None,
        runner: Runner | None = None,
    ) -> torch.Tensor:
        """Run tokens ``ids`` ``[n]`` at positions ``start …`` after what ``cache`` holds; return logits ``[keep, V]``.

        The cache is extended by ``n`` tokens. ``keep`` rows of logits are computed, the last ones. A ``runner`` runs
        the layers, and counts what it runs.
        """
        if isinstance(cache, TokenLog):
            ids, start = cache.extend(ids), 0
        if isinstance(cache, StateCache):
            return self._go_on(ids, cache, start=start, keep=keep, work=work)
        positions = torch.arange(start, start + len(ids), device=self.device)
        with self._attending(positions, cache, start + len(ids)) as mask:
            return self._run(ids, positions, cache, keep=keep, mask=mask, work=work, runner=runner)

    def _attending(self, rows: torch.Tensor, cache: Cache | TokenLog, n_keys: int) -> AbstractContextManager[Any]:
        """Return how appended rows see: over a branch's pieces, by blocks, or as the model itself does (no mask)."""
        if isinstance(cache, BranchCache):
            return branched(self.config, cache, self.capabilities)
        if self.capabilities.block is not None:
            return self._seen(rows, n_keys)
        alone = len(rows) == 1 and type(cache) is GrowingCache and self.device.type == "cpu"
        # who asks for eager attention may want to see its weights
        ours = alone and implementation(self.config) != "eager"
        if ours and reads_once(self.capabilities, self.dtype, n_keys):
            return self._seen(rows, n_keys)
        return nullcontext()

    def prefill(self, ids: Sequence[int], cache: AnyCache, *, start: int = 0, work: Work | None = None) -> torch.Tensor:
        """Run a prompt of which ``cache`` holds the first ``start`` tokens; return the logits ``[V]`` after the last.

        A block-diffusion model runs whole blocks only: the rest stands in the first block that is decoded. The logits
        are then those of the last row that ran, and empty if none had to.
        """
        stop = self.capabilities.whole(len(ids))
        masked = self.capabilities.block is not None and not self.capabilities.ranges
        strip = max(1, self.capabilities.whole(_STRIP)) if masked else max(1, stop)
        logits = torch.empty(0, device=self.device)
        for at in range(start, stop, strip):
            some = self.tensor(ids[at : min(at + strip, stop)])
            logits = self.forward(some, cache, start=at, work=work)[-1]
        return logits

    def plain(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits ``[n, V]`` of tokens ``ids`` ``[n]`` by the model's own forward: no cache, no walk."""
        return replace(self, walk=None, tells_positions=False).forward(ids, TokenLog(), start=0, keep=len(ids))

    def reusable(self, tokens: int) -> int:
        """Return how many first ones of ``tokens`` tokens need not run before an answer, if their KV are known."""
        if self.recipe is None:
            return tokens - 1
        whole = self.capabilities.whole(tokens)
        needs_logits = self.recipe.shifted and whole == tokens
        return whole - self.recipe.block if needs_logits else whole

    def denoise(
        self,
        ids: torch.Tensor,
        cache: AnyCache,
        *,
        start: int,
        conditioning: torch.Tensor | None = None,
        work: Work | None = None,
    ) -> torch.Tensor:
        """Run one pass over a block ``ids`` ``[B]``, masks included, after the clean tokens in ``cache``.

        Return for each row the logits ``[B, V]`` of the token that stands there. Where a model's rows tell the token
        after them the first row has none: its token comes from the block before. The cache is left as it was: what
        these rows had for KV is forgotten.
        """
        if self.canvas is not None:
            assert isinstance(cache, GrowingCache)  # noqa: S101
            with self.evaluating():
                logits = self.canvas.denoise(ids, cache, start, conditioning)
            if work is not None:
                work.token_layers += len(ids) * self.n_layers
            return logits
        try:
            logits = self.forward(ids, cache, start=start, keep=len(ids), work=work)
            return torch.cat([logits[:1], logits[:-1]]) if self.recipe is not None and self.recipe.shifted else logits
        finally:
            cache.truncate(start)  # type: ignore[union-attr]  # its cache is ours, or a log

    def _go_on(self, ids: torch.Tensor, cache: StateCache, *, start: int, keep: int, work: Work | None) -> torch.Tensor:
        """Run tokens after the states in ``cache``; one by one where layers ignore their states in longer passes."""
        alone = start > 0 and self.capabilities.states == "tokens"
        logits = []
        for part in ids.split(1 if alone else len(ids)):
            positions = torch.arange(start, start + len(part), device=self.device)
            with cache.advancing(len(part)):
                kept = min(keep, len(part))
                logits.append(self._run(part, positions, cache, keep=kept, mask=None, work=work))
            start += len(part)
        return torch.cat(logits[-keep:])

    def calls(self, ids: torch.Tensor, cache: Cache, *, start: int) -> list[LayerCall]:
        """Return how the model calls each layer for tokens ``ids`` ``[n]`` at ``start …``; none is run.

        All hold the same hidden states, those before the first layer. Needs the walk.
        """
        taken: list[LayerCall] = []

        def take(calls: Sequence[LayerCall]) -> torch.Tensor:
            taken.extend(calls)
            raise Halted(calls[0].hidden, 0)

        positions = torch.arange(start, start + len(ids), device=self.device)
        try:
            self._run(ids, positions, cache, keep=1, mask=None, work=None, runner=take)
        except Halted as halted:
            traceback.clear_frames(halted.__traceback__)  # else its frames outlive the call
            return taken
        message = f"{self.name} cannot be walked, so nothing is known of how its layers are called"
        raise ValueError(message)

    def recompute(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        since: LayerFront | None = None,
        keep: int = 1,
        work: Work | None = None,
        before: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Run tokens ``ids`` ``[n]`` at true positions ``rows``, scatter their K/V, return logits ``[keep, V]``.

        Every row attends to the positions up to its own, whatever wrote them; rows and cached tokens together must
        cover them. ``since`` goes on from hidden states of these very rows. Needs rotary or learned positions
        (``UnsupportedModel`` is the strategy's to raise).
        """
        first, hidden = begin(since, work)
        stretch = LayerRange(first, self.n_layers, hidden, before)
        with cache.writing(rows), self._seen(rows, max(cache.length, int(rows.max()) + 1)) as mask:
            return self._run(ids, rows, cache, keep=keep, mask=mask, work=work, stretch=stretch)

    def unseeing(self, ids: torch.Tensor, cache: GrowingCache, hidden: Sequence[int]) -> torch.Tensor:
        """Run tokens ``ids`` after what ``cache`` holds, positions ``hidden`` masked; return the logits ``[V]``."""
        rows = torch.arange(cache.length, cache.length + len(ids), device=self.device)
        with cache.writing(rows):
            drawn = self._mask(rows, cache.length + len(ids))
            for mask in drawn.values() if isinstance(drawn, dict) else [drawn]:
                mask[..., list(hidden)] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            return self._run(ids, rows, cache, keep=1, mask=drawn, work=None)[-1]

    def advance(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        stop: int,
        work: Work,
        since: LayerFront | None = None,
        before: Callable[[int], None] | None = None,
    ) -> LayerFront:
        """Run the same rows up to layer ``stop`` only, and return where they stand; needs the walk."""
        first, hidden = begin(since, work)
        with cache.writing(rows), self._seen(rows, max(cache.length, int(rows.max()) + 1)) as mask:
            try:
                self._run(
                    ids, rows, cache, keep=1, mask=mask, work=work, stretch=LayerRange(first, stop, hidden, before)
                )
            except Halted as halted:
                return LayerFront(halted.hidden, halted.layer, halted.known)
        message = f"layers end at {self.n_layers}, and a pass that stops at {stop} is no part of one"
        raise ValueError(message)

    def look(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        layer: int,
        work: Work,
        since: LayerFront | None = None,
        before: Callable[[int], None] | None = None,
    ) -> LayerFront:
        """Run the same rows up to ``layer`` and make their K/V there, no more; return where they stand: before it."""
        with cache.ending(layer):
            return self.advance(ids, rows, cache, stop=layer + 1, work=work, since=since, before=before)

    @contextmanager
    def _seen(self, rows: torch.Tensor, n_keys: int) -> Iterator[torch.Tensor | dict[str, torch.Tensor] | None]:
        """Within the block ``rows`` see by true position: under the mask it gives, or over ranges of keys (None)."""
        if self.capabilities.ranges:
            with ranged(self.config, rows, self.capabilities):
                yield None
        else:
            yield self._mask(rows, n_keys)

    def _mask(self, rows: torch.Tensor, n_keys: int) -> torch.Tensor | dict[str, torch.Tensor]:
        eager = implementation(self.config) == "eager"
        return masks.by_position(rows, n_keys, self.capabilities, self.dtype if eager else None)

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: AnyCache,
        *,
        keep: int,
        mask: torch.Tensor | dict[str, torch.Tensor] | None,
        work: Work | None,
        stretch: LayerRange | None = None,
        runner: Runner | None = None,
    ) -> torch.Tensor:
        asked: dict[str, Any] = {"input_ids": ids[None], "use_cache": not isinstance(cache, TokenLog)}
        if asked["use_cache"]:
            asked[self._cache_name] = cache.held if isinstance(cache, OpaqueCache) else cache
        if self.tells_positions and "position_ids" in self._accepts:
            asked["position_ids"] = positions[None]
        if "logits_to_keep" in self._accepts:
            asked["logits_to_keep"] = keep
        if mask is not None:
            asked["attention_mask"] = mask
        stepping = self._stepping(work, stretch, runner)
        with torch.inference_mode(), self.evaluating(), stepping or nullcontext():
            given = self.model(**asked)
        if isinstance(cache, OpaqueCache):
            cache.take(given[self._cache_name])
        logits: torch.Tensor = given.logits[0, -keep:].clone()  # whoever processes them may write into them
        if work is not None and stepping is None:
            work.token_layers += len(ids) * self.n_layers
        return logits

    def _stepping(
        self, work: Work | None, stretch: LayerRange | None, runner: Runner | None
    ) -> AbstractContextManager[None] | None:
        """Return in what a forward walks; None where it cannot, or nobody follows it and it runs all layers."""
        whole = isinstance(work, Unfollowed) and stretch is None and runner is None
        return None if self.walk is None or whole else self.walk.stepping(work, stretch, runner)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block no part of the model is in training mode: no dropout."""
        if not (self.model.training or self._identity.training):
            yield
            return
        parts = [module for module in self.model.modules() if module.training]
        try:
            for module in parts:
                module.training = False
            yield
        finally:
            for module in parts:
                module.training = True
