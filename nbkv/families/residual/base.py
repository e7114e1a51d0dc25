"""Residual recompute: the newest tokens keep K/V, those of older ones are restored from residuals or token ids.

The newest request's sequence stays in the session; one that goes on from it goes on from what is held. There is only
one, since the point is to need little memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.errors import UnsupportedModel
from nbkv.events import Reused
from nbkv.families.fallback import in_full
from nbkv.families.residual.forms import HOST, INPUT, LATENT, Form, parse
from nbkv.families.residual.planner import plan, too_large
from nbkv.families.residual.sequence import BoundedSequence
from nbkv.models.adapter import ModelAdapter
from nbkv.models.work import Work
from nbkv.result import Provenance
from nbkv.show.units import plural
from nbkv.strategy import Prefilled, Strategy

_SAMPLE = 256  # older tokens on which forms are compared for ``form="auto"``


@dataclass(eq=False)
class HeldSequence:
    """The sequence a session keeps, and the model and strategy that made it."""

    model: str
    spec: str
    sequence: BoundedSequence


@dataclass(kw_only=True, repr=False)
class Restoring(Strategy):
    """Keep K/V of the newest tokens, restore older ones when their layer needs them; the hook is ``form_of``."""

    family: ClassVar[str] = "residual"
    needs: ClassVar[tuple[str, ...]] = ("prefix", "walk", "causal", "per_token")

    keep: float = 0.25
    rows: int | None = None

    @abstractmethod
    def form_of(self, adapter: ModelAdapter, ctx: Context | None) -> Form:
        """Return the form that older tokens are held in; nothing is measured without ``ctx``, outside of a request."""

    def room(self, total: int) -> int:
        """Return how many of ``total`` tokens keep K/V: a share, rounded down, or a number; at least the newest."""
        return max(1, int(self.keep * total)) if isinstance(self.keep, float) else min(self.keep, total)

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` also if the form takes more bytes a token than K/V."""
        super().check(adapter)
        refuse_larger_than_kv(self.form_of(adapter, None), adapter)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Continue the session's sequence where it shares first tokens with the prompt; run the rest."""
        ids, stable = request.ids, ctx.adapter.capabilities.stable_context
        if len(ids) + request.max_new_tokens > stable:
            return in_full(self, request, ctx, "residual: computed in full and kept whole")
        sequence = self._sequence(request, ctx)
        sequence.cache.peak = 0
        known = _common(sequence.ids, ids)
        matched = min(known, len(ids) - 1)
        sequence.truncate(matched)
        provenance = np.full(len(ids), Provenance.FRESH, dtype=np.uint8)
        provenance[:matched] = Provenance.PREFIX
        provenance[: sequence.cache.old] = _source(sequence.form)
        if known == len(ids):
            provenance[matched:] = Provenance.RECOMPUTED
        if matched:
            ctx.tell(Reused, start=0, stop=matched, tier="session")
        rows = ctx.work()
        logits = sequence.forward(ids[matched:], rows)
        return Prefilled(cache=sequence.cache, logits=logits, provenance=provenance, rows=rows, own=sequence)

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one decoded token, restoring older K/V layer by layer; return the logits ``[V]`` after it."""
        sequence: BoundedSequence | None = prefilled.own
        if sequence is None or prefilled.cache is not sequence.cache:
            return super().step(token, at, prefilled, ctx, work)
        return sequence.forward([token], work)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:  # noqa: ARG002
        """Let the session keep the sequence, unless the request was interrupted or keeps nothing."""
        sequence: BoundedSequence | None = prefilled.own
        if sequence is None:
            return
        prefilled.notes.append(_note(sequence))
        if request.keep and not sequence.busy and prefilled.cache is sequence.cache:
            ctx.scratch[self.name] = HeldSequence(ctx.model, self.spec, sequence)

    def _sequence(self, request: Request, ctx: Context) -> BoundedSequence:
        """Return the session's sequence if it was made in this way and ``request`` may go on with it, else a new one.

        It is taken out: what a request breaks off is not found again.
        """
        held: HeldSequence | None = ctx.scratch.get(self.name)
        if held is None or (held.model, held.spec) != (ctx.model, self.spec):
            return self._new(ctx)
        if not request.keep:
            return held.sequence.copy()
        del ctx.scratch[self.name]
        return held.sequence

    def _new(self, ctx: Context) -> BoundedSequence:
        return BoundedSequence(ctx.adapter, self.form_of(ctx.adapter, ctx), self.room, self.rows)


def refuse_larger_than_kv(form: Form, adapter: ModelAdapter) -> None:
    """Raise ``UnsupportedModel`` if a token costs more in ``form`` than its K/V."""
    if why := too_large(form, adapter):
        message = f"form={form.spec!r} is refused on {adapter.name}: {why} (form='ids' takes 4, form='auto' chooses)"
        raise UnsupportedModel(message)


def planned_form(ctx: Context) -> Form:
    """Return the form that the restore planner picks for the model; measured at the first call, which takes a while."""
    name = f"restoring@{ctx.model}@{torch.get_num_threads()}"
    known = ctx.verdicts.get(name)
    if known is None:
        most = min(ctx.adapter.capabilities.context, ctx.adapter.capabilities.stable_context) - 1
        known = plan(ctx.adapter, min(_SAMPLE, most)).pick
        ctx.verdicts.put(name, known)
    return parse(known, ctx.adapter.n_layers)


def _source(form: Form) -> Provenance:
    """Return the provenance of older tokens in ``form``: that of the layer which costs most to restore."""
    if form.runs:
        return Provenance.RECOMPUTED
    return Provenance.CORRECTED if {INPUT, LATENT} & set(form.sources) else Provenance.PREFIX


def _common(known: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many first tokens are the same."""
    return next(
        (at for at, pair in enumerate(zip(known, ids, strict=False)) if pair[0] != pair[1]), min(len(known), len(ids))
    )


def _note(sequence: BoundedSequence) -> str:
    adapter, form, old = sequence.adapter, sequence.form, sequence.cache.old
    held = f"{old} of {plural(sequence.length, 'token')} held as {form.spec} ({form.token_bytes(adapter):,} B a token"
    same = ", in the same memory" if HOST in form.sources and adapter.device.type == "cpu" else ""
    held += f" instead of {adapter.token_bytes:,} B of K/V{same})"
    return f"residual: {held}, restored for every token{_by(sequence)}"


def _by(sequence: BoundedSequence) -> str:
    """Return which layers a kernel projected, and why not the others; nothing where no kernel was asked for."""
    if not sequence.own_code:
        return ""
    own = [f", layer {index} by its own code: {why}" for index, why in sequence.own_code.items() if why]
    projected = len(sequence.own_code)
    return f"; K/V of {projected - len(own)} of {plural(projected, 'projected layer')} by one kernel{''.join(own[:1])}"
