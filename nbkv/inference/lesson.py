"""What a finished request teaches the model of costs: what its pass took, or how far off a blend's estimate was."""

from __future__ import annotations

import numpy as np

from nbkv.context import Context
from nbkv.families.blend.base import Blend, blended
from nbkv.families.prefix.base import Prefix
from nbkv.families.routing.cost_model import are_known, costs
from nbkv.families.routing.estimate import Estimate
from nbkv.families.routing.experience import learn_pace, note_pass
from nbkv.result import Provenance, Timing
from nbkv.scalars import is_number
from nbkv.strategy import Prefilled, Strategy


def learn(ctx: Context, served: Strategy, prefilled: Prefilled, timing: Timing) -> None:
    """Note what a request that ``served`` has answered took; a router (``prefilled.by``) learns of blends itself.

    Of block-diffusion models nothing is noted: their first token takes passes over a block as well.
    """
    n = len(prefilled.provenance)
    if ctx.adapter.recipe is not None or ctx.adapter.canvas is not None:
        return
    if isinstance(served, Prefix) or type(served).prefill is Strategy.prefill:
        rows = round(prefilled.rows.token_layers / ctx.adapter.n_layers)
        note_pass(ctx, rows, n, timing.ttft_s - timing.load_s - timing.select_s)
    elif isinstance(served, Blend) and prefilled.by is None and are_known(ctx) and is_number(served.budget):
        partial = blended(prefilled)
        if partial is not None and not any(one.encoded for one in partial.placed):
            counts = np.bincount(prefilled.provenance, minlength=len(Provenance))
            fresh, prefix = int(counts[Provenance.FRESH]), int(counts[Provenance.PREFIX])
            expected = Estimate(n, prefix, n - prefix - fresh).by_blend(costs(ctx), served.budget)
            learn_pace(ctx, served, n, expected, timing.ttft_s)
