"""Expected prefill times of a prompt under full, prefix and blend, from the store's index before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nbkv import selection
from nbkv.context import Context, Request
from nbkv.families.routing.cost_model import CostModel


@dataclass(frozen=True)
class Estimate:
    """A prompt of ``length`` tokens: K/V of its ``prefix`` first are stored, ``placed`` behind them are rows of chunks.

    ``missing`` are the lengths (with sinks) of chunks that have left the store and would have to be encoded first.
    """

    length: int
    prefix: int
    placed: int
    missing: tuple[int, ...] = ()

    def in_full(self, costs: CostModel) -> float:
        """Return the expected seconds of a full prefill."""
        return costs.run(self.length, self.length)

    def by_prefix(self, costs: CostModel) -> float:
        """Return the expected seconds of a prefill that continues the stored prefix."""
        return costs.copy * self.prefix + costs.run(self.length - self.prefix, self.length)

    def by_blend(self, costs: CostModel, budget: float) -> float:
        """Return the seconds expected for placing chunks, a pass of the question over them, and the rows to run.

        The pass of the question is what ``influence``, ``passage`` and ``prophet`` make; other leaves are learnt from
        their requests.
        """
        fresh = max(1, self.length - self.prefix - self.placed)
        encode = sum(costs.run(tokens, tokens) for tokens in self.missing)
        load = costs.copy * self.prefix + costs.move * self.placed
        rows = fresh + selection.count(budget, self.placed)
        return load + encode + costs.run_watched(fresh, self.length) + costs.run_scattered(rows, self.length)


def estimate(request: Request, ctx: Context, own: Mapping[int, int] = MappingProxyType({})) -> Estimate:
    """Return what the store's index says of ``request``'s prompt; no K/V are read.

    ``own``: how many tokens from a position on its blend has K/V of itself.
    """
    ids = request.ids
    if len(ids) > ctx.adapter.capabilities.stable_context:  # then nothing of it may be reused
        return Estimate(len(ids), 0, 0)
    known = ctx.adapter.capabilities
    prefix = min(ctx.store.holds(ctx.space(), ids), ctx.adapter.reusable(len(ids)))
    placed, missing = 0, set()
    for chunk, start, stop in request.prompt.chunks:
        if stop <= prefix:
            continue
        if start in own:
            placed += max(0, own[start] - max(0, prefix - start))
            continue
        path = chunk.path(start, known.block)
        held = ctx.store.holds(ctx.space(), path)
        if held < known.whole(len(path)) and chunk.lineage == "canonical":
            missing.add(path)
            held = known.whole(len(path))
        placed += max(0, held - (len(path) - len(chunk)) - max(0, prefix - start))
    return Estimate(len(ids), prefix, placed, tuple(len(path) for path in missing))
