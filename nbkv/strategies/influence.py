"""Influence: recompute the rows whose values the question takes most of. Our own; chosen on real models and text.

What a stale row does to an answer is what attention takes of it: its weight times its value. A weight alone overrates
attention sinks, whose values are near zero ("value also matters", VATP, Guo et al., arXiv 2406.12335, there for
eviction); a row's own deviation overrates rows that nobody reads. docs/own-method.md has what else was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.blend.base import Blend
from nbkv.families.blend.influence import influential
from nbkv.families.blend.partial import PartialPrefill
from nbkv.registry import strategies as registry


@dataclass(kw_only=True, repr=False)
class Influence(Blend):
    """Let the question run once over what is cached, take the rows with the largest attention times value norm.

    The score of row ``j`` is ``sum_l sum_h sum_i a[l, h, i, j] |v[l, h, j]|_2`` over layers, heads and question rows:
    an upper bound of what ``j`` adds to the question's attention outputs, before the output projection. Rows are taken
    one by one; whole sentences and neighbours did worse. Made for chunks that are encoded where text would stand
    (``session.chunk(sink="context")``), which matters as much as the rows.
    """

    name: ClassVar[str] = "influence"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "recompute the tokens whose values the question takes most of"
    needs: ClassVar[tuple[str, ...]] = (*Blend.needs, "attention")

    budget: float = 0.15

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows with the highest attention times value norm."""
        return influential(partial, self.budget)


registry.alias("blend", Influence.name)  # by the tables on real models and text (docs/real-text.md, docs/own-method.md)
