"""CacheBlend: recompute the tokens whose K/V deviate most (Yao et al., arXiv 2405.16444, sections 4.2 and 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.events import Fallback
from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check, check_choice, check_share, whole_numbers
from nbkv.families.routing.loading_controller import LoadingController
from nbkv.models.adapter import ModelAdapter
from nbkv.scalars import is_number
from nbkv.selection import best, count
from nbkv.show.units import plural
from nbkv.strategy import Prefilled, Strategy

_SIDES = ("k", "v", "kv")
_FILTERING = ("check", "gradual")
_STORE = "store"
_SPREAD = 1 / 3  # of the budget, by which the first share of a gradual filter is above it and the last below


@dataclass(kw_only=True, repr=False)
class CacheBlend(Blend):
    """Run the first layers in full, compare with what was cached, go on with the rows that deviate most.

    As in the authors' code, rows are run in full up to a check layer, and those whose values deviate most go on; with
    several ``check_layers`` rows are thinned out at each. ``deviation``: of values (``v``, as in that code), of keys
    (``k``, as in LMCache), or of both (``kv``, as the paper defines it). ``filtering="gradual"`` is the paper's own
    (section 4.3): from the first check layer on deviation is measured in every layer, and fewer rows go on from each: a
    third more than ``budget`` from the first, a third less from the last, ``budget`` on average (how much more and less
    the paper leaves open). Every layer but the last is then a check layer and counts as selection, and what a token's
    provenance calls recomputed are the rows that were left at the end. ``budget=0`` reuses chunks unchecked.
    ``link`` turns on the paper's loading controller (section 5.1), by costs measured once on this model and device:
    bytes per second at which chunks arrive, or ``"store"``, as fast as the store's tiers were last read. The budget is
    then what can be recomputed while chunks load, more than ``budget`` or less, but at least ``least`` (or ``budget``,
    where that is less); a chunk that loads slower than it is computed is not loaded.
    """

    name: ClassVar[str] = "cacheblend"
    paper: ClassVar[str] = "CacheBlend, arXiv 2405.16444"
    summary: ClassVar[str] = "recompute the tokens whose K/V deviate most at the check layers"

    budget: float = 0.15
    check_layers: tuple[int, ...] = (1,)
    deviation: str = "v"
    link: float | str | None = None
    filtering: str = "check"
    least: float = 0.15

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        check_share(self, "budget", "least")
        layers = self.check_layers = whole_numbers(self.check_layers) or ()
        if not layers:
            message = "check_layers takes layer numbers from 0 on, such as (1,) or (1, 4, 8)"
            raise BadOption(message)
        if list(layers) != sorted(set(layers)):
            message = f"check_layers={layers!r} is not accepted: layers go upwards, each once"
            raise BadOption(message)
        check_choice(self, "deviation", _SIDES)
        check_choice(self, "filtering", _FILTERING)
        if self.filtering == "gradual" and len(layers) > 1:
            message = f"check_layers={layers!r} is not accepted: filtering='gradual' takes the first check layer alone"
            raise BadOption(message)
        if self.link is not None:
            accepted = f"a number of bytes per second > 0, or {_STORE!r}, as fast as its tiers were read"
            check(self, "link", lambda link: link == _STORE or (is_number(link) and link > 0), accepted)

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` for what the model lacks, ``BadOption`` for check layers that it has not."""
        super().check(adapter)
        if self.budget in {0, 1} and self.link is None:  # nothing is checked
            return
        if self.check_layers[-1] > adapter.n_layers - 2:
            message = (
                f"check_layers={self.check_layers!r} is not accepted: {adapter.name} has "
                f"{plural(adapter.n_layers, 'layer')}, and a check layer lies before the last one "
                f"(0 to {adapter.n_layers - 2})"
            )
            raise BadOption(message)
        if self.filtering == "gradual" and adapter.capabilities.shared_kv:
            why = "its layers share K/V (filtering='check' works)"
            message = f"cacheblend(filtering='gradual') cannot serve {adapter.name}: {why}"
            raise UnsupportedModel(message)

    def at_full_budget(self) -> Strategy:
        """Return this strategy recomputing every reused token, whatever loading takes."""
        return replace(self, budget=1.0, link=None)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Blend, with a link as its controller plans it."""
        if self.link is None:
            return super().prefill(request, ctx)
        rate = None if isinstance(self.link, str) else self.link
        plan = LoadingController(ctx, rate, self.least).plan(request, self.budget)
        prefilled = replace(self, budget=plan.budget, link=None).prefill(plan.request, ctx)
        prefilled.declined = plan.declined
        for note in plan.notes:
            prefilled.notes.append(note)
            if plan.declined is not None or plan.budget != self.budget:
                ctx.tell(Fallback, why=note)
        return prefilled

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows that deviate most at the last check layer of those that did at the ones before."""
        room, rows = partial.room(self.budget), partial.reused
        if not room or not len(rows):
            return rows[:0]
        partial.begin(rows)
        for layer, keep in self._filters(partial, room, len(rows)):
            kept = best(partial.deviation(layer, self.deviation)[rows], rows, keep)
            partial.narrow(kept)
            rows = kept
        return rows

    def _filters(self, partial: PartialPrefill, room: int, n: int) -> list[tuple[int, int]]:
        """Return check layers, and how many of ``n`` rows go on from each."""
        if self.filtering == "gradual":
            layers = range(self.check_layers[0], partial.n_layers - 1)
            spread, last = min(_SPREAD * self.budget, 1 - self.budget), max(1, len(layers) - 1)
            shares = [self.budget + spread * (1 - 2 * index / last) for index in range(len(layers))]
            return [(layer, partial.room(share)) for layer, share in zip(layers, shares, strict=True)]
        found = []
        for index, layer in enumerate(self.check_layers):
            left = len(self.check_layers) - 1 - index
            # each check but the last keeps a bit more than the budget: evenly spaced shares down to it
            found.append((layer, room + count(left / len(self.check_layers), min(room, n - room))))
        return found
