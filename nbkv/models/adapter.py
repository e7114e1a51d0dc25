"""One face for every decoder: forward over rows at positions with our cache, through the walk where it is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from nbkv.models.attention.masks import Mask
from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.branch import BranchCache
from nbkv.models.caches.family import FamilyCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.opaque import OpaqueCache
from nbkv.models.caches.packed import Feed, PackedCache, PackedPass
from nbkv.models.caches.recurrent import StateCache, ours
from nbkv.models.caches.token_log import TokenLog
from nbkv.models.capabilities import Capabilities
from nbkv.models.diffusion.canvas import CanvasDecoder
from nbkv.models.diffusion.recipe import Recipe
from nbkv.models.forward import Forward
from nbkv.models.identity.devices import compute_dtype, input_device, run_device
from nbkv.models.identity.fingerprint import Identity
from nbkv.models.identity.record import Record
from nbkv.models.walk import Halted, LayerRange, Runner, Walk
from nbkv.models.work import LayerInput, Work, begin
from nbkv.rope import Rope

_MOST_MASK = 2**26  # rows x keys of a pass behind cached tokens, for which transformers makes a mask
_STRIP = 1024  # rows of a block-diffusion prompt that run together where they need a mask: rows x keys


@dataclass(eq=False)
class ModelAdapter:
    """A transformers causal language model as nbkv runs it; made by ``nbkv.models.probing.probe.adapt``.

    ``tells_positions``: positions are given explicitly, counted from 0; not to families that count them in another way.
    ``rope`` moves cached keys to other positions; None where that cannot be done exactly. ``recipe`` is how a
    block-diffusion model is decoded, ``canvas`` what does that for DiffusionGemma; both None for a causal one.
    ``identity`` is the model's where its fingerprint was taken already.
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
    identity: Identity | None = None

    def __post_init__(self) -> None:
        """Prepare what every pass needs."""
        self._identity = self.identity or Identity(self.model)
        self._taken = 0
        self.device = input_device(self.model)
        self.dtype = compute_dtype(self.model)
        self._made_as = self.place
        self.model_forward = Forward(self.model, self.walk, self._identity, self.n_layers, self.tells_positions)

    @property
    def attention(self) -> PassAttention:
        """Return how the rows of its passes attend."""
        return PassAttention(self.model, self.capabilities, self.dtype, self.device)

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

    @cached_property
    def _returns_states(self) -> bool:
        """Whether the forward takes and returns states in an object of the family's own."""
        return self.model_forward.keeps_states and not self.family_cache().has_states

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
        """Return what identifies the weights, quantisation and active adapters; changes when any of them does.

        Taking it is how a ``to()`` of the model is noticed: ``device`` and ``dtype`` are then its new ones.
        """
        digest = self._identity.digest
        if self._taken != self._identity.taken:
            self._taken = self._identity.taken
            self.device, self.dtype = input_device(self.model), compute_dtype(self.model)
        return digest

    @property
    def place(self) -> str:
        """Return dtype and device, such as ``float32 on cpu``."""
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device}"

    @property
    def whereabouts(self) -> str:
        """Return ``place``, and what it was when the model was proved where that has changed."""
        moved = "" if self.place == self._made_as else f", moved by its owner: it was proved as {self._made_as}"
        return f"{self.place}{moved}"

    def kv_bytes(self, layer: int) -> int:
        """Return the bytes of one token's K and V in ``layer``; 0 where it uses those of another layer."""
        return self.capabilities.kv_size(layer) * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Return the bytes of one token's K and V over all layers."""
        return sum(self.kv_bytes(layer) for layer in range(self.n_layers))

    def evaluating(self) -> AbstractContextManager[None]:
        """Within the block no part of the model is in training mode: no dropout."""
        return self.model_forward.evaluating()

    def tensor(self, ids: Sequence[int]) -> torch.Tensor:
        """Return token ids ``[n]`` on the model's device."""
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def new_cache(self, reserve: int = 0) -> SequenceCache:
        """Return an empty cache: ours if it passed the self-test, else the family's own, else a log of the tokens."""
        if self.capabilities.prefix:
            return self.growing(reserve + (self.capabilities.block or 0))
        own = self.capabilities.own_cache and self.capabilities.block is None
        return self.family_cache() if own else TokenLog()

    def growing(self, reserve: int = 0) -> GrowingCache:
        """Return an empty cache of ours, with room for states where this model keeps some."""
        return self.stateful(reserve) if self.capabilities.states else GrowingCache(reserve)

    @property
    def packs(self) -> bool:
        """Return whether tokens of many sequences may be tried in one pass: it is told where each stands in its own."""
        return self.capabilities.branches and self.tells_positions and self.model_forward.takes_positions

    def branch_at(self, base: int) -> BranchCache:
        """Return a cache for a sequence's tokens from ``base`` on, without those before; needs ``branches``."""
        return BranchCache(base, self.n_layers)

    def stateful(self, reserve: int = 0) -> StateCache:
        """Return an empty cache for states, proved or not; raises ``TypeError`` for layers that it has none for."""
        return OpaqueCache() if self._returns_states else StateCache(ours(self.family_cache(), reserve), reserve)

    def family_cache(self) -> FamilyCache:
        """Return an empty cache of the kind transformers makes for this model."""
        return FamilyCache(self.config)

    def forward(
        self,
        ids: torch.Tensor,
        cache: SequenceCache,
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
        ids, start = cache.rows_to_run(ids, start)
        one_by_one = start > 0 and self.capabilities.states == "tokens"  # longer passes would ignore the states
        logits = []
        for part in ids.split(1) if one_by_one else (ids,):
            positions, stop = torch.arange(start, start + len(part), device=self.device), start + len(part)
            with cache.advancing(len(part)), cache.attending(positions, stop, self.attention) as mask:
                last = min(keep, len(part))
                logits.append(
                    self.model_forward.run(part, positions, cache, keep=last, mask=mask, work=work, runner=runner)
                )
            start = stop
        return logits[0] if len(logits) == 1 else torch.cat(logits[-keep:])

    def packed(self, feeds: Sequence[Feed], work: Work | None = None) -> torch.Tensor:
        """Run new tokens of many sequences in one pass; return the logits ``[S, V]`` after the last of each.

        The feeds of one bundle stand together. If it raises, no sequence is longer than before. Needs ``packs``.
        """
        cache, rows = PackedCache(self.n_layers), PackedPass(feeds, self.device)
        with cache.running(rows, self.config, self.capabilities):
            return self.model_forward.run(rows.ids, rows.positions, cache, keep=rows.last, work=work)

    def prefill(
        self, ids: Sequence[int], cache: SequenceCache, *, start: int = 0, work: Work | None = None
    ) -> torch.Tensor:
        """Run a prompt of which ``cache`` holds the first ``start`` tokens; return the logits ``[V]`` after the last.

        A block-diffusion model runs whole blocks only: the rest is part of the first block that is decoded. The logits
        are then those of the last row that ran, and empty if none had to. Rows for which there has to be a mask run in
        strips, so that its memory does not grow with the square of the prompt.
        """
        stop = self.capabilities.whole(len(ids))
        strip = self._strip(start, stop)
        logits = torch.empty(0, device=self.device)
        for at in range(start, stop, strip):
            some = self.tensor(ids[at : min(at + strip, stop)])
            logits = self.forward(some, cache, start=at, work=work)[-1]
        return logits

    def _strip(self, start: int, stop: int) -> int:
        """Return how many rows of ``start … stop`` run together."""
        known = self.capabilities
        if known.block is not None:
            return max(1, stop) if known.ranges else max(1, known.whole(_STRIP))
        return max(1, _MOST_MASK // stop) if start and not known.states else max(1, stop)

    def warm_up(self) -> None:
        """Run the fewest tokens that it can: what a model's first pass costs more than others is paid here.

        Kernels are then chosen, and weights that were mapped into memory have been touched.
        """
        with torch.no_grad():
            self.prefill([0] * (self.capabilities.block or 1), self.new_cache())

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
        cache: SequenceCache,
        *,
        start: int,
        conditioning: torch.Tensor | None = None,
        work: Work | None = None,
    ) -> torch.Tensor:
        """Run one pass over a block ``ids`` ``[B]``, masks included, after the clean tokens in ``cache``.

        Return for each row the logits ``[B, V]`` of its own token. Where a model's rows predict the token after
        them the first row has none: its token comes from the block before. The cache is left as it was: what
        these rows had for KV is forgotten.
        """
        if self.canvas is not None:
            with self.evaluating():
                logits = self.canvas.denoise(ids, cache, start, conditioning)
            if work is not None:
                work.token_layers += len(ids) * self.n_layers
            return logits
        try:
            logits = self.forward(ids, cache, start=start, keep=len(ids), work=work)
            return torch.cat([logits[:1], logits[:-1]]) if self.recipe is not None and self.recipe.shifted else logits
        finally:
            cache.truncate(start)

    def recompute(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        since: LayerInput | None = None,
        keep: int = 1,
        work: Work | None = None,
        before: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Run tokens ``ids`` ``[n]`` at true positions ``rows``, scatter their K/V, return logits ``[keep, V]``.

        Every row attends to the positions up to its own, whatever wrote them; rows and cached tokens together must
        cover them. ``since`` are hidden states of these very rows, to go on from. ``before(layer)`` is called before
        each layer. Needs rotary or learned positions (``UnsupportedModel`` is the strategy's to raise).
        """
        first, hidden = begin(since, work)
        layers = LayerRange(first, self.n_layers, hidden, before)
        with self._scattering(rows, cache) as mask:
            return self.model_forward.run(ids, rows, cache, keep=keep, mask=mask, work=work, layers=layers)

    def advance(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        stop: int,
        work: Work,
        since: LayerInput | None = None,
        before: Callable[[int], None] | None = None,
    ) -> LayerInput:
        """Run the same rows up to layer ``stop`` only, and return that layer's input; needs the walk."""
        first, hidden = begin(since, work)
        layers = LayerRange(first, stop, hidden, before)
        with self._scattering(rows, cache) as mask:
            try:
                self.model_forward.run(ids, rows, cache, keep=1, mask=mask, work=work, layers=layers)
            except Halted as halted:
                return LayerInput(halted.hidden, halted.layer, halted.known)
        message = f"layers end at {self.n_layers}, and a pass that stops at {stop} is no part of one"
        raise ValueError(message)

    def advance_to_kv(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        cache: GrowingCache,
        *,
        layer: int,
        work: Work,
        since: LayerInput | None = None,
        before: Callable[[int], None] | None = None,
    ) -> LayerInput:
        """Run the same rows up to ``layer`` and make their K/V there, no more; return that layer's input."""
        with cache.ending(layer):
            return self.advance(ids, rows, cache, stop=layer + 1, work=work, since=since, before=before)

    @contextmanager
    def _scattering(self, rows: torch.Tensor, cache: GrowingCache) -> Iterator[Mask | None]:
        """Within the block K/V go to positions ``rows`` ``[n]``, which attend by position, under the mask it gives."""
        n_keys = max(cache.length, int(rows.max()) + 1)
        with cache.writing(rows), self.attention.by_position(rows, n_keys) as mask:
            yield mask
