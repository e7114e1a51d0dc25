"""One face for every decoder: forward over rows at positions with our cache, through the walk where it is proved."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from nbkv.models import masks
from nbkv.models.attention import implementation
from nbkv.models.cache import GrowingCache, TokenLog
from nbkv.models.capabilities import Capabilities
from nbkv.models.dropping import why_not
from nbkv.models.fingerprint import Identity
from nbkv.models.placement import compute_dtype, input_device, run_device
from nbkv.models.record import Record
from nbkv.models.soft import stand_in
from nbkv.models.walk import Call, Halted, Runner, Stretch, Walk
from nbkv.rope import Rope

AnyCache = Cache | TokenLog


@dataclass
class Work:
    """Counts what the layers did: ``token_layers`` is the sum over layers of the rows each was run on."""

    token_layers: int = 0
    on_layer: Callable[[int, int], None] | None = None

    def __call__(self, index: int, rows: int) -> None:
        """Count ``rows`` tokens through layer ``index``, then tell whoever follows the layers."""
        self.token_layers += rows
        if self.on_layer is not None:
            self.on_layer(index, rows)


@dataclass(frozen=True, eq=False)
class Front:
    """Hidden states ``[..., rows, H]`` of some rows that have been through the layers before ``layer``."""

    hidden: torch.Tensor
    layer: int

    def keep(self, which: torch.Tensor) -> Front:
        """Return the front of the rows at indices ``which`` of these."""
        return Front(self.hidden.index_select(-2, which.to(self.hidden.device)), self.layer)


@dataclass(eq=False)
class ModelAdapter:
    """A transformers causal language model as nbkv runs it; made by ``nbkv.models.probe.adapt``.

    ``tells_positions``: positions are given explicitly, counted from 0; not to families that count them in another way.
    ``rope`` moves cached keys to other positions; None where that cannot be done exactly.
    """

    model: PreTrainedModel
    name: str
    capabilities: Capabilities
    walk: Walk | None
    record: Record | None
    tells_positions: bool = True
    rope: Rope | None = None

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
    def takes_embeddings(self) -> bool:
        """Return whether embeddings can be given in place of token ids (``models.soft``); tried at the first ask."""
        return stand_in(self)

    @cached_property
    def why_no_dropping(self) -> str:
        """Return why tokens cannot be dropped from its cache, empty if they can; tried once."""
        return why_not(self)

    @property
    def n_layers(self) -> int:
        """Return the number of decoder layers."""
        return self.capabilities.n_layers

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
            return GrowingCache(reserve)
        return self.family_cache() if self.capabilities.own_cache else TokenLog()

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
        positions = torch.arange(start, start + len(ids), device=self.device)
        return self._run(ids, positions, cache, keep=keep, mask=None, work=work, runner=runner)

    def calls(self, ids: torch.Tensor, cache: Cache, *, start: int) -> list[Call]:
        """Return how the model calls each layer for tokens ``ids`` ``[n]`` at ``start …``; none is run.

        All hold the same hidden states, those before the first layer. Needs the walk.
        """
        taken: list[Call] = []

        def take(calls: Sequence[Call]) -> torch.Tensor:
            taken.extend(calls)
            raise Halted(calls[0].hidden)

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
        since: Front | None = None,
        keep: int = 1,
        work: Work | None = None,
        before: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Run tokens ``ids`` ``[n]`` at true positions ``rows``, scatter their K/V, return logits ``[keep, V]``.

        Every row attends to the positions up to its own, whatever wrote them; rows and cached tokens together must
        cover them. ``since`` goes on from hidden states of these very rows. Needs rotary or learned positions
        (``UnsupportedModel`` is the strategy's to raise).
        """
        first, hidden = (0, None) if since is None else (since.layer, since.hidden)
        stretch = Stretch(first, self.n_layers, hidden, before)
        with cache.writing(rows):
            mask = self._mask(rows, cache)
            return self._run(ids, rows, cache, keep=keep, mask=mask, work=work, stretch=stretch)

    def unseeing(self, ids: torch.Tensor, cache: GrowingCache, hidden: Sequence[int]) -> torch.Tensor:
        """Run tokens ``ids`` after what ``cache`` holds, positions ``hidden`` masked; return the logits ``[V]``."""
        rows = torch.arange(cache.length, cache.length + len(ids), device=self.device)
        with cache.writing(rows):
            drawn = self._mask(rows, cache)
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
        since: Front | None = None,
        before: Callable[[int], None] | None = None,
    ) -> Front:
        """Run the same rows up to layer ``stop`` only, and return where they stand; needs the walk."""
        first, hidden = (0, None) if since is None else (since.layer, since.hidden)
        with cache.writing(rows):
            mask = self._mask(rows, cache)
            try:
                self._run(ids, rows, cache, keep=1, mask=mask, work=work, stretch=Stretch(first, stop, hidden, before))
            except Halted as halted:
                return Front(halted.hidden, stop)
        message = f"layers end at {self.n_layers}, and a pass that stops at {stop} is no part of one"
        raise ValueError(message)

    def _mask(self, rows: torch.Tensor, cache: GrowingCache) -> torch.Tensor | dict[str, torch.Tensor]:
        n_keys = max(cache.length, int(rows.max()) + 1)
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
        stretch: Stretch | None = None,
        runner: Runner | None = None,
    ) -> torch.Tensor:
        asked: dict[str, Any] = {"input_ids": ids[None], "use_cache": not isinstance(cache, TokenLog)}
        if asked["use_cache"]:
            asked["cache_params" if self.keeps_states else "past_key_values"] = cache
        if self.tells_positions and "position_ids" in self._accepts:
            asked["position_ids"] = positions[None]
        if "logits_to_keep" in self._accepts:
            asked["logits_to_keep"] = keep
        if mask is not None:
            asked["attention_mask"] = mask
        with torch.no_grad(), self.evaluating(), self._stepping(work, stretch, runner):
            logits: torch.Tensor = self.model(**asked).logits[0, -keep:]
        if work is not None and self.walk is None:
            work.token_layers += len(ids) * self.n_layers
        return logits

    def _stepping(self, work: Work | None, stretch: Stretch | None, runner: Runner | None) -> Any:  # noqa: ANN401  (a context manager)
        return nullcontext() if self.walk is None else self.walk.stepping(work, stretch, runner)

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
