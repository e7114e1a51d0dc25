"""Auto: for each prompt the cheapest way that is faithful enough, by what passes cost here and what is in the store.

Exact reuse comes first: ``prefix`` costs what ``full`` costs where nothing is known, and keeps what it computes. A
blend is taken where chunks lie at other places than in a prefix and the time it saves is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.events import Fallback
from nbkv.families.options import check
from nbkv.families.routing.alongside import Alongside
from nbkv.families.routing.cost_model import are_known, costs
from nbkv.families.routing.estimate import Estimate, estimate
from nbkv.families.routing.experience import learn_pace, pace
from nbkv.families.routing.kl_history import kl_history, learn_kl
from nbkv.models.diffusion.block import Block
from nbkv.models.work import Work
from nbkv.scalars import is_number
from nbkv.strategy import Declined, Prefilled, Strategy, parse
from nbkv.timing import settle, timed

_WORTH = 0.9  # what gives something up must be expected to take at most this share of the time
_EVERY = 16  # under a bound a blend is measured again each time it would have served this many prompts
_ANSWER = 32  # tokens of an answer over which it is measured


class _ServingOption(NamedTuple):
    """One way to serve a prompt: the seconds expected by the model of costs, and as corrected by experience."""

    strategy: Strategy
    modelled: float
    expected: float


class _RoutingDecision(NamedTuple):
    """Who serves, who else could have, ``why`` not the blend where chunks are there for one, whether to measure it."""

    chosen: _ServingOption
    others: tuple[_ServingOption, ...]
    blend: _ServingOption
    why: str = ""
    measure: bool = False


@dataclass(kw_only=True, repr=False)
class Auto(Strategy):
    """Serve each prompt by ``full``, ``prefix`` or the chunk strategy ``blend``, whichever is expected to be fastest.

    Expected by costs measured once on this model and device, and corrected by how long requests take; what was chosen
    and why stands in the notes. So which of them serves may differ between machines. A request that ``full`` or
    ``prefix`` serves is exact and shares their KV. Chunks are those named in the prompt (or found by ``match="auto"``).

    ``max_kl``: no blend unless the mean KL from full over an answer (nats) is above it on at most a share ``alpha`` of
    prompts, with confidence 0.9. It is measured on the prompts themselves: until there are enough measurements (45 of
    45 within the bound at ``alpha=0.05``), and every sixteenth time later, a prompt that the blend would serve is
    served exactly and the blend follows the answer beside it. What ``session.generate(fidelity=True)`` measures counts
    too, and all of it is remembered for this model.
    """

    name: ClassVar[str] = "auto"
    family: ClassVar[str] = "auto"
    summary: ClassVar[str] = "choose full, prefix or a blend by expected time, within a bound on fidelity"
    exact: ClassVar[bool] = False
    places: ClassVar[bool] = True

    max_kl: float | None = None
    blend: str = "blend"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a bound that is no number, and for a blend without a budget."""
        if self.max_kl is not None:
            accepted = "a number of nats >= 0, or None for no bound"
            check(self, "max_kl", lambda bound: is_number(bound) and bound >= 0, accepted)
        check(self, "alpha", lambda alpha: is_number(alpha) and 0 < alpha < 1, "a share of prompts between 0 and 1")
        chosen: Any = parse(self.blend)
        if chosen.family != "blend" or not is_number(getattr(chosen, "budget", None)):
            message = f"blend={self.blend!r} is not accepted: blend is a chunk strategy with a budget, such as 'blend'"
            raise BadOption(message)

    def at_full_budget(self) -> Strategy:
        """Return this strategy with a blend that recomputes every reused token."""
        whole = parse(self.blend).at_full_budget()
        return self if whole is None else replace(self, blend=whole.spec)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Choose the strategy, and let it prefill the prompt."""
        if refusal := _refusal(parse("prefix"), ctx):
            prefilled = _serve(parse("full"), request, ctx)
            prefilled.notes.append(f"auto: full, no reuse: {refusal}")
            ctx.tell(Fallback, why=prefilled.notes[-1])
            return prefilled
        if ctx.adapter.capabilities.states:  # no chunks to place, and less to compute than in full wherever it goes on
            prefilled = _serve(parse("prefix"), request, ctx)
            prefilled.notes.append("auto: prefix, from checkpoints of this model's states")
            return prefilled
        clock, first = timed(), not are_known(ctx)
        decision = self._decide(self._known(request, ctx), ctx)
        notes = [f"auto: what passes cost here was measured first, once ({clock():.2f} s)"] if first else []
        chosen, blend = decision.chosen, decision.blend.strategy
        beside = Alongside(blend, request, ctx, _ANSWER) if decision.measure else None
        spent = clock()
        prefilled = _timed(chosen, request, ctx)
        prefilled.select_s += spent
        notes.append(f"auto: {_described(chosen)} expected against {' and '.join(map(_described, decision.others))}")
        if beside is not None:
            beside.compare(self.opening(prefilled, request, ctx))
            prefilled.own = beside  # strategies that are exact leave nothing to their later stages there
        if decision.why:
            prefilled.declined = Declined(decision.why, chosen.expected - decision.blend.expected)
            notes.append(f"auto: no {blend.spec}: {decision.why}")
            ctx.tell(Fallback, why=notes[-1])
        prefilled.notes += notes
        return prefilled

    def decoding(self, prefilled: Prefilled, ctx: Context) -> AbstractContextManager[object]:
        """Return what the strategy that served the prompt attaches to the model."""
        return prefilled.by.decoding(prefilled, ctx) if prefilled.by else nullcontext()

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one decoded token as the strategy that served the prompt does."""
        step = super().step if prefilled.by is None else prefilled.by.step
        logits = step(token, at, prefilled, ctx, work)
        if isinstance(beside := prefilled.own, Alongside):
            beside.step(token, at - prefilled.extra, logits)
        return logits

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one pass over a block as the strategy that served the prompt does."""
        denoise = super().denoise if prefilled.by is None else prefilled.by.denoise
        return denoise(block, prefilled, ctx, work)

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep what the strategy that served the prompt keeps."""
        if isinstance(beside := prefilled.own, Alongside):
            beside.end()
            prefilled.select.token_layers += beside.work.token_layers
            prefilled.notes.append(self._learn(beside, ctx))
        if prefilled.by is not None:
            prefilled.by.commit(prefilled, ids, request, ctx)

    def _learn(self, beside: Alongside, ctx: Context) -> str:
        """Remember how far the blend was ``beside`` the answer that was served, and return a note."""
        spec = parse(self.blend).spec
        known, tokens = learn_kl(ctx.verdicts, ctx.model, spec, beside.kl), len(beside.kls)
        over = f"mean KL {beside.kl:.2g} over {tokens} {'token' if tokens == 1 else 'tokens'}"
        return f"auto: measured {spec} beside this answer, {over} (mean of {known.n}: {known.mean:.2g})"

    def _known(self, request: Request, ctx: Context) -> Estimate:
        """Return what is known of ``request``'s prompt, by the store and by the blend itself."""
        blend: Any = parse(self.blend)
        spotted, supplied = blend.supply(request, ctx)
        own = {start: each.kv.length for start, each in supplied.items() if each.kv is not None}
        return estimate(spotted, ctx, own)

    def _decide(self, known: Estimate, ctx: Context) -> _RoutingDecision:
        """Return who serves a prompt of which the store knows ``known``."""
        full, prefix, blend = self._choices(known, ctx)
        # full keeps nothing, so it must be clearly cheaper: where KV loads slower than it is computed
        exact = full if full.expected < _WORTH * prefix.expected else prefix
        other = prefix if exact is full else full
        if not known.placed:
            return _RoutingDecision(exact, (other,), blend)
        why = self._against(blend, exact, ctx)
        measure = not why and self._is_due(blend, ctx)
        if why or measure or (why := self._too_far(blend, ctx)):
            return _RoutingDecision(exact, (other, blend), blend, why, measure)
        return _RoutingDecision(blend, (full, prefix), blend)

    def _choices(self, known: Estimate, ctx: Context) -> tuple[_ServingOption, _ServingOption, _ServingOption]:
        """Return full, prefix and the blend with what they are expected to take."""
        measured, blend = costs(ctx), parse(self.blend)
        budget: float = blend.budget  # type: ignore[attr-defined]  # looked at when it was made
        ways = (
            (parse("full"), known.in_full(measured)),
            (parse("prefix"), known.by_prefix(measured)),
            (blend, known.by_blend(measured, budget)),
        )
        paces = [pace(ctx, way, known.length, measured.blend_pace) for way, _ in ways]
        full, prefix, mixed = (_ServingOption(*way, way[1] * times) for way, times in zip(ways, paces, strict=True))
        return full, prefix, mixed

    def _against(self, blend: _ServingOption, exact: _ServingOption, ctx: Context) -> str:
        """Return why the blend may not or need not serve; empty if nothing speaks against it."""
        if refusal := _refusal(blend.strategy, ctx):
            return refusal
        if blend.expected > _WORTH * exact.expected:
            return "below break-even"
        return ""

    def _is_due(self, blend: _ServingOption, ctx: Context) -> bool:
        """Return whether the blend is to be measured on this prompt; counts the prompts it would serve."""
        if self.max_kl is None:
            return False
        name = f"turns@{blend.strategy.spec}@{ctx.model}"
        turn = int(ctx.verdicts.get(name) or 0) + 1
        ctx.verdicts.hold(name, turn)
        known = kl_history(ctx.verdicts, ctx.model, blend.strategy.spec)
        return known.is_open(self.max_kl, self.alpha) or turn % _EVERY == 0

    def _too_far(self, blend: _ServingOption, ctx: Context) -> str:
        known = kl_history(ctx.verdicts, ctx.model, blend.strategy.spec)
        if self.max_kl is None or known.keeps(self.max_kl, self.alpha):
            return ""
        share = f"at most {100 * self.alpha:.0f} % of prompts may be above max_kl={self.max_kl:g}"
        return f"{share}, and {known.above(self.max_kl)} of {known.n} measured were"


def _refusal(strategy: Strategy, ctx: Context) -> str:
    """Return why ``strategy`` may not serve this model, or an empty text."""
    try:
        strategy.check(ctx.adapter)
    except UnsupportedModel as refusal:
        return str(refusal)
    failed = ctx.verdicts.get(f"{strategy.spec}@{ctx.model}")
    return f"it failed its self-check on this model ({failed})" if failed else ""


def _serve(strategy: Strategy, request: Request, ctx: Context) -> Prefilled:
    prefilled = strategy.prefill(request, ctx)
    prefilled.by = prefilled.by or strategy
    return prefilled


def _timed(chosen: _ServingOption, request: Request, ctx: Context) -> Prefilled:
    """Let the choice run the prompt, and learn from how long it takes."""
    clock = timed()
    prefilled = _serve(chosen.strategy, request, ctx)
    settle(ctx.adapter)
    learn_pace(ctx, chosen.strategy, len(prefilled.provenance), chosen.modelled, clock())
    return prefilled


def _described(way: _ServingOption) -> str:
    seconds = f"{way.expected:.3f} s" if way.expected >= 0.01 else f"{way.expected * 1e3:.2g} ms"  # noqa: PLR2004
    return f"{way.strategy.spec}, {seconds}"
