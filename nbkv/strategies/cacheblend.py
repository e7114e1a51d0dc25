"""CacheBlend: recompute the tokens whose K/V deviate most (Yao et al., arXiv 2405.16444, sections 4.2 and 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption
from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check, check_choice, check_share, is_number, whole_numbers
from nbkv.families.routing.cost_model import costs, token_bytes
from nbkv.selection import best, count
from nbkv.strategy import Prefilled

_SIDES = ("k", "v", "kv")


@dataclass(kw_only=True, repr=False)
class CacheBlend(Blend):
    """Run the first layers in full, compare with what was cached, go on with the rows that deviate most.

    ``check_layers``: where deviation is measured; rows are run in full up to the first of them, and thinned out at each
    (gradual filtering). ``deviation``: of keys, values or both. ``budget=0`` reuses chunks as they are, unchecked.
    ``link``: bytes per second at which chunks arrive; the budget is then raised to what can be recomputed while they
    load (the paper's loading controller, section 5.1), by costs measured once on this model and device.
    """

    name: ClassVar[str] = "cacheblend"
    paper: ClassVar[str] = "CacheBlend, arXiv 2405.16444"
    summary: ClassVar[str] = "recompute the tokens whose K/V deviate most at the check layers"

    budget: float = 0.15
    check_layers: tuple[int, ...] = (1,)
    deviation: str = "kv"
    link: float | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        check_share(self, "budget")
        layers = self.check_layers = whole_numbers(self.check_layers) or ()
        if not layers:
            message = "check_layers takes layer numbers from 0 on, such as (1,) or (1, 4, 8)"
            raise BadOption(message)
        if list(layers) != sorted(set(layers)):
            message = f"check_layers={layers!r} is not accepted: layers go upwards, each once"
            raise BadOption(message)
        check_choice(self, "deviation", _SIDES)
        if self.link is not None:
            check(self, "link", lambda link: is_number(link) and link > 0, "a number of bytes per second > 0")

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Blend, with a link at the budget it leaves time for."""
        if self.link is None:
            return super().prefill(request, ctx)
        load_s, run_s = token_bytes(ctx.adapter) / self.link, costs(ctx).rows(1, len(request.ids))
        share = min(1.0, load_s / max(run_s, 1e-12))
        budget = max(self.budget, share)
        prefilled = replace(self, budget=budget, link=None).prefill(request, ctx)
        over = f"loading over {self.link:.3g} bytes/s leaves time to recompute {share:.2g} of the rows"
        prefilled.notes.append(f"{over}: budget {budget:.2g}")
        return prefilled

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows that deviate most at the last check layer of those that did at the ones before."""
        room = partial.room(self.budget)
        layers = [layer for layer in self.check_layers if layer < partial.n_layers - 1]
        if not room or not layers:
            return partial.reused[:room]
        rows = partial.reused
        partial.begin(rows)
        for index, layer in enumerate(layers):
            scores = partial.deviation(layer, self.deviation)
            left = len(layers) - 1 - index
            # each check but the last keeps a bit more than the budget: evenly spaced shares down to it
            keep = room + count(left / len(layers), min(room, len(rows) - room))
            kept = best(scores[rows], rows, keep)
            partial.narrow(kept)
            rows = kept
        return rows
