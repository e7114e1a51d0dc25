"""Learns at load how a model's layers are called, and proves walk and cache on its own logits before they are used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from transformers import PreTrainedModel

from nbkv.errors import UnsupportedModel
from nbkv.fidelity import scaled_error
from nbkv.models import capabilities
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.recurrent import StateCache
from nbkv.models.caches.token_log import TokenLog
from nbkv.models.diffusion.canvas import CanvasDecoder, Encoder
from nbkv.models.diffusion.recipe import Recipe
from nbkv.models.identity.devices import input_device
from nbkv.models.identity.fingerprint import Identity
from nbkv.models.identity.record import Record, RotaryPlace
from nbkv.models.probing import rotary
from nbkv.models.probing.prompt import made_up_ids
from nbkv.models.probing.recurrence import failing
from nbkv.models.probing.rows import RowTrial
from nbkv.models.walk import Layers, Walk, find_layers

_TOKENS = 20  # probe length; cut in the middle, so that both halves have several rows
_BLOCKS = 3  # and at least so many diffusion blocks
_FP32_TOLERANCE = 1e-4  # house rule 1: scaled by max(1, max|logit|)
_PLAIN_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")  # transformers' layers that keep K and V, nothing else


def adapt(
    model: PreTrainedModel,
    name: str,
    record: Record | None = None,
    recipe: Recipe | None = None,
    identity: Identity | None = None,
) -> ModelAdapter:
    """Return the adapter for ``model``, from ``record`` if it was proved before; honest in ``notes`` about what failed.

    ``recipe`` is how a block-diffusion model is decoded, ``identity`` the model's where it is known. Raises
    ``UnsupportedModel`` for a model that is neither causal nor made for blocks, or whose config does not say how many
    layers it has.
    """
    record = record or probe(model, name, recipe)
    layers = None if record.layers is None else Layers(model, *record.layers)
    return ModelAdapter(
        model,
        name,
        record.capabilities,
        None if layers is None else Walk(layers),
        record,
        tells_positions=record.tells_positions,
        rope=None if record.places is None else rotary.build(model, record.places),
        recipe=recipe,
        canvas=CanvasDecoder(model.native) if isinstance(model, Encoder) else None,
        identity=identity,
    )


def probe(model: PreTrainedModel, name: str, recipe: Recipe | None = None) -> Record:
    """Return what ``model`` can do, each point proved on its own logits."""
    began, config = time.perf_counter(), model.config.get_text_config()
    if not getattr(config, "num_hidden_layers", 0):
        message = f"{name} cannot be served: its config ({config.model_type}) does not say how many layers it has"
        raise UnsupportedModel(message)
    known = capabilities.read(config, model, None, None if recipe is None else recipe.block)
    ids = _probe_ids(model, config, known)
    plain = ModelAdapter(model, name, known, None, None, tells_positions=False, recipe=recipe)
    try:
        expected, layers = find_layers(
            model, plain.n_layers, lambda: plain.forward(ids, TokenLog(), start=0, keep=len(ids))
        )
    except Exception as failure:
        why = f"{type(failure).__name__}: {next(iter(str(failure).splitlines()), '')}"
        message = f"{name} cannot be served: its own forward fails on {len(ids)} tokens ({why})"
        raise UnsupportedModel(message) from failure
    trial = _ModelTrial(plain, ids, expected.float())
    if recipe is not None:
        trial.check_blocks()
    if layers is not None and (cache := trial.passes(replace(plain, walk=Walk(layers), tells_positions=True))):
        return trial.record(cache, layers, began, tells_positions=True)
    trial.check_causal()
    told = isfinite(error := trial.error(replace(plain, tells_positions=True), TokenLog, ())) and error <= trial.limit
    plain = replace(plain, tells_positions=told)
    if (going := trial.goes_on(plain, layers)) is not None:
        adapter, cache, layers = going
        return trial.record(cache, layers, began, tells_positions=told, states=adapter.capabilities.states)
    if (cache := trial.passes(plain)) is None:
        return trial.record(None, None, began, tells_positions=False)
    if layers is None:
        trial.notes.append("plain forward: the layers are not called once each, in order")
    elif not trial.passes(replace(plain, walk=Walk(layers))):
        trial.notes.append(f"plain forward: the walk's logits differ by {trial.last:.1e} (limit {trial.limit:.1e})")
        layers = None
    return trial.record(cache, layers, began, tells_positions=told)


class _ModelTrial:
    """One model's own logits on a few tokens, and everything that is held against them."""

    def __init__(self, plain: ModelAdapter, ids: torch.Tensor, expected: torch.Tensor) -> None:
        self.plain, self.ids, self.expected = plain, ids, expected
        whole = plain.capabilities.whole
        self.cuts = (whole(len(ids) // 2), whole(len(ids) - 1))
        self.last = 0.0
        self.limit = self._limit()
        self.notes: list[str] = []
        self.stateless = ""

    def passes(self, adapter: ModelAdapter) -> GrowingCache | None:
        """Return the cache that ``adapter`` filled in several passes if the logits were right, else None."""
        caches: list[GrowingCache] = []

        def fresh() -> GrowingCache:
            caches.append(GrowingCache())
            return caches[-1]

        self.last = self.error(adapter, fresh, self.cuts)
        return caches[0] if self.last <= self.limit else None

    def error(self, adapter: ModelAdapter, new: Callable[[], SequenceCache], cuts: tuple[int, ...]) -> float:
        """Return the largest scaled logit error when the pass is cut at ``cuts``; infinite if it cannot be run so."""
        try:
            cache, parts = new(), []
            for start, stop in pairwise((0, *cuts, len(self.ids))):
                parts.append(adapter.forward(self.ids[start:stop], cache, start=start, keep=stop - start))
        except Exception:  # noqa: BLE001  (a family may refuse a cache in any way; the note tells, full still works)
            return float("inf")
        return scaled_error(torch.cat(parts), self.expected)

    def goes_on(
        self, plain: ModelAdapter, layers: Layers | None
    ) -> tuple[ModelAdapter, StateCache, Layers | None] | None:
        """Return how this model goes on from its states: by the walk or not, with the cache that showed it; or None."""
        if not self._keeps_states():
            return None
        walks = [] if layers is None else [(layers, replace(plain, walk=Walk(layers)))]
        bases: list[tuple[Layers | None, ModelAdapter]] = [*walks, (None, plain)]
        steps = self.error(plain, plain.family_cache, tuple(range(len(self.ids) // 2, len(self.ids))))
        rounded = max(2 * steps if isfinite(steps) else 0.0, 4 * float(torch.finfo(plain.dtype).eps))
        limit = self.limit if plain.dtype == torch.float32 else rounded
        for states in ("passes", "tokens"):
            for found, base in bases:
                adapter = replace(base, capabilities=replace(base.capabilities, states=states))
                try:
                    cache = adapter.stateful()
                except Exception as refusal:  # noqa: BLE001  (a family without a cache of transformers' kind)
                    self.stateless = f"its states cannot be cloned: {refusal}"
                    return None
                self.stateless = failing(adapter, plain, cache, self.ids, limit)
                if not self.stateless:
                    return adapter, cache, found
        return None

    def check_causal(self) -> None:
        """Raise ``UnsupportedModel`` if a later token (or block) changes earlier logits (half precision hides that)."""
        half = self.cuts[0]
        logits = self.plain.forward(self.ids[:half], TokenLog(), start=0, keep=half)
        error = scaled_error(logits, self.expected[:half])
        if self.plain.dtype == torch.float32 and error > _FP32_TOLERANCE:
            name = self.plain.name
            message = (
                f"{name} is not causal: later tokens change earlier logits (by {error:.1e}); nothing can be reused"
            )
            raise UnsupportedModel(message)

    def check_blocks(self) -> None:
        """Raise ``UnsupportedModel`` if the tokens of a block do not attend to each other."""
        block = self.plain.capabilities.block
        assert block is not None  # noqa: S101
        ids = self.ids[:block]
        other = ids.clone()
        other[-1] = (ids[-1] + 1) % self.plain.config.vocab_size
        # two passes of one size: in another size the same row may be rounded otherwise
        one, two = (self.plain.forward(each, TokenLog(), start=0, keep=block)[0] for each in (ids, other))
        if block > 1 and torch.equal(one, two):
            message = (
                f"{self.plain.name} cannot decode in blocks: it ignores the mask in which a block sees all of itself"
            )
            raise UnsupportedModel(message)

    def record(
        self,
        cache: GrowingCache | None,
        layers: Layers | None,
        began: float,
        *,
        tells_positions: bool,
        states: str = "",
    ) -> Record:
        """Return the record: ``cache`` is the one that gave the right logits, ``layers`` the walk that did."""
        plain, refused = self.plain, {}
        if states == "tokens":
            self.notes.append("its layers ignore their states in longer passes: a suffix is run token by token")
        if states and layers is None:
            self.notes.append("plain forward: the layers cannot be walked with states")
        config = plain.config
        if cache is None:
            refused["prefix"] = self._why_no_prefix()
            self.notes.append(f"prefix reuse is off: {refused['prefix']}")
        kv = None if cache is None else cache.read(0, len(self.ids))
        found = replace(
            capabilities.read(config, plain.model, kv, plain.capabilities.block),
            walk=layers is not None,
            prefix=cache is not None,
            own_cache=cache is not None or (plain.recipe is None and self._own_cache()),
            states=states,
            state_bytes=0 if cache is None else cache.state_bytes,
            refused=refused,
        )
        adapter = replace(
            plain,
            capabilities=found,
            walk=None if layers is None else Walk(layers),
            tells_positions=tells_positions,
        )
        places = self._places(adapter, cache, refused)
        if layers is None:
            refused["walk"] = "its layers cannot be run one by one"
        found = replace(
            found, relocation=places is not None, attention="attention" not in refused, ranges="ranges" not in refused
        )
        where = None if layers is None else (layers.path, layers.name, layers.returns)
        return Record(found, tells_positions, where, places, tuple(self.notes), time.perf_counter() - began)

    def _places(
        self, adapter: ModelAdapter, cache: GrowingCache | None, refused: dict[str, str]
    ) -> tuple[RotaryPlace | None, ...] | None:
        """Return which dimensions of each layer's keys rotate, where rows can be run again too; None if not.

        What cannot be done with rows is put into ``refused``, with the reason.
        """
        places, why = rotary.learn(adapter, self.ids, self.limit)
        if places is None or cache is None:
            refused["relocation"] = refused["attention"] = refused["ranges"] = why
            return None
        cache.truncate(len(self.ids))
        rows = RowTrial(adapter, self.ids, cache, self.expected, self.limit)
        if why := rows.why_not():
            refused["relocation"] = refused["attention"] = refused["ranges"] = why
            return None
        if why := rows.why_no_attention():
            refused["attention"] = why
        if why := rows.why_no_ranges():
            refused["ranges"] = why
            self.notes.append(f"rows of a prompt run again attend under a mask, which takes memory: {why}")
        return places

    def _own_cache(self) -> bool:
        ends = tuple(range(len(self.ids) - 4, len(self.ids)))
        own = self.error(self.plain, self.plain.family_cache, ends) <= self.limit
        if not own:
            self.notes.append("no cache: this family's own cache gives other logits, so each token is a full pass")
        return own

    def _keeps_states(self) -> bool:
        linear = any("Linear" in kind for kind in _layer_kinds(self.plain))
        return self.plain.capabilities.recurrent or linear or self.plain.model_forward.keeps_states

    def _why_no_prefix(self) -> str:
        kinds = _layer_kinds(self.plain)
        if self._keeps_states():
            return self.stateless
        if other := [kind for kind in kinds if kind not in _PLAIN_LAYERS]:
            return f"its layers keep more than K and V for a token ({other[0]})"
        if not isfinite(self.last):
            return "it does not take our cache"
        return f"continued from cached K/V, logits differ by {self.last:.1e} (limit {self.limit:.1e})"

    def _limit(self) -> float:
        """Return the scaled error allowed: fixed in fp32, in half precision twice what the family's own cache gives."""
        dtype = self.plain.dtype
        if dtype == torch.float32:
            return _FP32_TOLERANCE
        split = self.error(self.plain, self.plain.family_cache, self.cuts)
        return max(2 * split if isfinite(split) else 0.0, 4 * float(torch.finfo(dtype).eps))


def _layer_kinds(adapter: ModelAdapter) -> list[str]:
    try:
        return adapter.family_cache().layer_kinds
    except Exception:  # noqa: BLE001  (a family without a cache of transformers' kind)
        return []


def _probe_ids(model: PreTrainedModel, config: Any, known: capabilities.Capabilities) -> torch.Tensor:  # noqa: ANN401  (a transformers config)
    told = int(
        capabilities.config_value(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 0
    )
    wanted = max(_TOKENS, _BLOCKS * (known.block or 0))
    length = known.whole(min(wanted, told) if told > 0 else wanted)
    return torch.tensor(made_up_ids(length, int(config.vocab_size)), device=input_device(model))
