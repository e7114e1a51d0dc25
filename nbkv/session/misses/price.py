"""What the cure of a miss saves: rows that would not run, and the seconds they take by the measured cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nbkv import selection
from nbkv.families.routing.cost_model import CostModel
from nbkv.families.routing.estimate import Estimate
from nbkv.misses import Cause, Miss
from nbkv.result import Provenance
from nbkv.session.misses.diagnosis import Inquiry
from nbkv.strategy import parse

CHUNKS = "blend"  # the strategy that a text at another place is priced with


def priced(misses: Sequence[Miss], asked: Inquiry, known: CostModel | None, blends: float = 1.0) -> tuple[Miss, ...]:
    """Return ``misses`` with the seconds that each fix saves, by the costs that are ``known`` (None: left open).

    A prefix that is continued saves its rows and costs the moving of its KV. Chunks save what is not recomputed of
    them, and cost the pass that chooses: tokens that stand elsewhere are priced together, as one request under
    ``blend`` would serve them; such requests take ``blends`` times as long as the costs say.
    """
    moved = [miss for miss in misses if miss.cause == Cause.MOVED]
    saves, seconds = _as_chunks(sum(miss.saves for miss in moved), asked, known, blends)
    total = sum(miss.saves for miss in moved)
    ran = sum(miss.tokens for miss in misses)
    found = []
    for miss in misses:
        if miss.cause == Cause.MOVED:
            part = miss.saves / max(1, total)
            worth = None if seconds is None else seconds * part
            found.append(replace(miss, saves=max(0, round(saves * part)), seconds=worth))
        elif known is None or miss.seconds is not None:
            found.append(miss)
        else:
            rest = known.run(max(1, ran - miss.saves), asked.length)
            worth = known.run(ran, asked.length) - rest - known.copy * miss.saves
            found.append(replace(miss, seconds=worth))
    return tuple(found)


def _as_chunks(placed: int, asked: Inquiry, known: CostModel | None, blends: float) -> tuple[int, float | None]:
    """Return what is saved, in rows and in seconds, where ``placed`` tokens of the prompt come from chunks."""
    budget: float = parse(CHUNKS).budget  # type: ignore[attr-defined]  # every chunk strategy has one
    prefix = int((asked.provenance == Provenance.PREFIX).sum())
    fresh = max(1, asked.length - prefix - placed)
    saves = placed - selection.count(budget, placed) - fresh
    if known is None:
        return saves, None
    estimate = Estimate(asked.length, prefix, placed)
    return saves, estimate.by_prefix(known) - estimate.by_blend(known, budget) * blends
