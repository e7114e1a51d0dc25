"""Checks of a strategy at its own budget: approximate as it is, much of what it holds can be known exactly.

Nothing here is a judgement of quality. Which rows are taken from chunks and which are computed is the method's affair;
that the former are the chunk's own K/V moved here, and the latter what the model makes of the row over just these, is
arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nbkv.context import Context
from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.own_pass import HeldRows, OwnPass, own_pass
from nbkv.result import Chunk, Provenance
from nbkv.session.verification.model_answers import Limits, ModelAnswers, kv_error, logits_error
from nbkv.session.verification.prompts import ChunkPrompt
from nbkv.session.verification.report import Checks
from nbkv.session.verification.trials import Trial
from nbkv.show.units import plural
from nbkv.strategy import Strategy

_HELD = (Provenance.CHUNK, Provenance.CORRECTED)


@dataclass(frozen=True, eq=False)
class ReuseChecks:
    """The checks of one ``strategy`` at its own budget; their rows go to ``checks``."""

    ctx: Context
    answers: ModelAnswers
    limits: Limits
    strategy: Strategy
    checks: Checks

    def see(self, trial: Trial, given: ChunkPrompt, *, canonical: bool = True) -> None:
        """Check ``trial``, which ran ``given``; ``canonical``: the store is all that it can have taken K/V from."""
        self._sound(trial, given)
        if trial.kv is None or not self.answers.has_kv or trial.kv.length == 0:
            self.checks.unchecked(self._name("K/V"), "not checked at this budget: they do not lie by position")
            return
        self._first_layer(trial, given)
        if canonical:
            self._reused_rows(trial, given)
        self._other_rows(trial, given)

    def reused(self, trial: Trial, given: ChunkPrompt) -> bool:
        """Check that K/V of chunks were used, or say why not; return False and say nothing where neither is so."""
        sources, name = trial.prefilled.provenance, self._name("reuse")
        if taken := int(np.isin(sources, _HELD).sum()):
            self.checks.holds(name, ok=True, note=f"{taken} of {plural(len(sources), 'token')} reused, {given.name}")
        elif trial.fallbacks:
            self.checks.unchecked(name, f"fell back: {trial.fallbacks[0]}")
        else:
            return False
        return True

    @staticmethod
    def ran_again(trial: Trial) -> bool:
        """Return whether rows were placed and run again, as a small chunk's may all be."""
        return bool((trial.prefilled.provenance == Provenance.RECOMPUTED).any())

    def nothing_reused(self, what: str) -> None:
        """Let the check of reuse fail: ``what`` was not reused."""
        mend = "place what the store holds (families.blend.assemble), or tell a Fallback event why not"
        self.checks.holds(self._name("reuse"), ok=False, note=f"nothing was reused: {what}; {mend}")

    # the single checks

    def _sound(self, trial: Trial, given: ChunkPrompt) -> None:
        """Check what needs no reference: shapes, finite numbers, counts."""
        want, known = self.answers.to(trial.prompt.ids), self.ctx.adapter.capabilities
        wrong, sources, n = [], trial.prefilled.provenance, len(trial.prompt.ids)
        if trial.first.shape != want.first.shape:
            wrong.append(f"logits of shape {list(trial.first.shape)}, not {list(want.first.shape)}")
        elif not bool(trial.first.isfinite().all()):
            wrong.append("logits are not finite")
        if sources.shape != (n,) or not np.isin(sources, list(Provenance)).all():
            wrong.append(f"provenance does not say of each of {n} tokens where it came from")
        elif len(outside := self._outside(trial)):
            wrong.append(f"token {outside[0]} is said to come from a chunk, and no chunk is there")
        cache = trial.prefilled.cache
        rows = known.whole(n + trial.prefilled.extra) + len(trial.steps)
        if isinstance(cache, GrowingCache) and known.per_token and cache.length not in {0, rows}:
            wrong.append(f"the cache holds {plural(cache.length, 'token')}, not {rows}")
        self.checks.holds(self._name("counts"), ok=not wrong, note=wrong[0] if wrong else f"add up, {given.name}")

    def _outside(self, trial: Trial) -> list[int]:
        inside = np.zeros(len(trial.prompt.ids), dtype=np.bool_)
        for _, start, stop in trial.prompt.chunks:
            inside[start:stop] = True
        # K/V of earlier prompts may be found anywhere, if any were kept
        kept = any(self.ctx.scratch.values())
        claimed = (trial.prefilled.provenance == Provenance.CHUNK) & ~inside
        return [] if kept else claimed.nonzero()[0].tolist()

    def _first_layer(self, trial: Trial, given: ChunkPrompt) -> None:
        """Check the first layer, whose K/V depend on token and position alone, however a row came by them."""
        name, kv = self._name("first layer"), trial.kv
        assert kv is not None  # noqa: S101
        if not self._independent(given):
            self.checks.unchecked(name, "not checked: in this model they depend on the text before")
            return
        rows = trial.places[torch.from_numpy(trial.prefilled.provenance != Provenance.CORRECTED)]
        rows = rows[rows < kv.length]
        error = kv_error(kv, self._own(trial).kv, rows, (0,))
        self.checks.error(name, error, self.limits.kv, f"K/V of every token at its position, {given.name}")

    def _independent(self, given: ChunkPrompt) -> bool:
        """Return whether in the model's own passes a token's first K/V are the same behind any text."""
        whole = self.answers.to(given.prompt.ids).kv
        assert whole is not None  # noqa: S101
        for chunk, start, stop in given.prompt.chunks:
            own, here = self._moved(chunk, start, start), whole[start:stop]
            if kv_error(own[: here.length], here[: own.length], layers=(0,)) > self.limits.kv:
                return False
        return True

    def _reused_rows(self, trial: Trial, given: ChunkPrompt) -> None:
        """Check the rows taken from a chunk against what the model makes of sink and chunk at that very place.

        In the layers where no pass ran more rows than are said to be computed: a selection that ran others through the
        first layers has written there.
        """
        sources, kv = trial.prefilled.provenance, trial.kv
        assert kv is not None  # noqa: S101
        ran = np.isin(sources, (Provenance.FRESH, Provenance.RECOMPUTED))
        for chunk, start, stop in given.prompt.chunks:
            if chunk.name in given.missing:  # encoded in a pass of its own
                ran[start:stop] &= sources[start:stop] == Provenance.RECOMPUTED
        computed = int(ran.sum()) + trial.prefilled.extra
        layers = [layer for layer in range(len(kv.keys)) if trial.layers[layer] <= computed]
        for chunk, start, stop in given.prompt.chunks:
            place = int(trial.places[start])
            taken = torch.from_numpy((sources[start:stop] == Provenance.CHUNK).nonzero()[0])
            if chunk.name in given.missing or not len(taken):
                continue
            want = self._moved(chunk, start, place)
            error = kv_error(kv[place : place + want.length], want, taken, layers)
            note = f"K/V of chunk {chunk.name!r} in {len(layers)} of {plural(len(kv.keys), 'layer')}, {given.name}"
            self.checks.error(self._name("reused rows"), error, self.limits.kv, note)

    def _other_rows(self, trial: Trial, given: ChunkPrompt) -> None:
        """Check all other rows: what the model itself makes of them, over the K/V held for the reused ones."""
        sources, kv, known = trial.prefilled.provenance, trial.kv, self.ctx.adapter.capabilities
        assert kv is not None  # noqa: S101
        held = np.isin(sources, _HELD)
        if self.strategy.in_some_layers:  # which, is the method's affair: what came of it is taken as it is
            held |= sources == Provenance.RECOMPUTED
            held[-1] = False
        for chunk, start, stop in given.prompt.chunks:
            held[start:stop] |= chunk.name in given.missing  # encoded meanwhile, and then not said to be reused
        rows = torch.ones(len(sources) + trial.prefilled.extra, dtype=torch.bool)
        rows[trial.places[~torch.from_numpy(held)]] = False  # what is no token of the prompt is taken as it is
        rows = rows[: kv.length]
        taken, computed = rows.nonzero().flatten(), (~rows).nonzero().flatten()
        own = self._own(trial, HeldRows(taken, _at(kv, taken)))
        note = f"over {plural(len(taken), 'row')} held, {given.name}"
        self.checks.error(self._name("other rows"), kv_error(kv, own.kv, computed), self.limits.kv, note)
        if known.causal:
            error = logits_error(trial.prefilled.logits, own.logits[-1])
            self.checks.error(self._name("logits"), error, self.limits.logits, note)

    # what the model makes of it

    def _own(self, trial: Trial, given: HeldRows | None = None) -> OwnPass:
        assert trial.kv is not None  # noqa: S101
        wide = np.zeros(len(trial.prompt.ids) + trial.prefilled.extra, dtype=np.int64)
        wide[trial.places.numpy()] = trial.prompt.ids
        return own_pass(self.ctx.adapter, wide[: trial.kv.length].tolist(), given=given)

    def _moved(self, chunk: Chunk, start: int, place: int) -> KV:
        """Return the K/V of ``chunk``, which begins at ``start`` of the prompt, alone behind its sink at ``place``.

        Made at that very place, so that no rotation of ours is trusted. Where a model's values are others there than at
        position 0, and before position 0, a chunk's K/V are by definition those made at 0, with the keys rotated.
        """
        path = chunk.path(start, self.ctx.adapter.capabilities.block)
        ahead = len(path) - len(chunk)
        path = path[: self.ctx.adapter.capabilities.whole(len(path))]
        at_zero = self.answers.kv_of(path)
        there = self.answers.kv_of(path, place - ahead) if place >= ahead else None
        # a tenth of the limit, so that the rest of it is left to the error itself
        if there is not None and kv_error(_values(there), _values(at_zero)) <= self.limits.kv / 10:
            return there[ahead:]
        old, rope = torch.arange(len(path), device=self.ctx.adapter.device), self.ctx.adapter.rope
        return at_zero[ahead:] if rope is None else rope.move(at_zero, old, old + place - ahead)[ahead:]

    def _name(self, check: str) -> str:
        return f"{self.strategy.spec} with chunks: {check}"


def _values(kv: KV) -> KV:
    """Return the values alone."""
    return KV(kv.values, kv.values)


def _at(kv: KV, rows: torch.Tensor) -> KV:
    """Return the tokens at ``rows``."""
    return KV(
        tuple(side[:, rows.to(side.device)] if side.numel() else side for side in kv.keys),
        tuple(side[:, rows.to(side.device)] if side.numel() else side for side in kv.values),
    )
