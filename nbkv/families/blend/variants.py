"""Variants of a chunk: its KV as earlier prompts had it, and how much of that its new surroundings change.

After Cache-Craft (arXiv 2502.15734), whose equations are cited. ``inter(i, j)`` is the attention that chunk ``i``
paid to an earlier part ``j`` of its prompt, ``intra(i)`` that to itself (eq 3), summed over tokens, averaged over heads
and layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import exp
from typing import NamedTuple

import numpy as np
import torch

from nbkv.families.blend.earlier import HarvestedKV
from nbkv.families.blend.layerwise import SpanKV
from nbkv.kv import KV, Span
from nbkv.prompts.prompt import Prompt

Ids = tuple[int, ...]


class PromptPart(NamedTuple):
    """A chunk, or the text between two chunks: its token ids and its span in the prompt."""

    ids: Ids
    span: Span


@dataclass(frozen=True, eq=False, kw_only=True)
class Variant(HarvestedKV):
    """Chunk ``ids`` as it was in a prompt: its K/V, the parts ``before`` it, and the attention of its tokens.

    ``inter`` ``[T, parts]`` and ``intra`` ``[T]`` are attention weights; ``uses`` counts the requests that took it.
    """

    kv: KV
    ids: Ids
    before: tuple[Ids, ...]
    inter: torch.Tensor
    intra: torch.Tensor
    uses: int = 1

    @property
    def nbytes(self) -> int:
        """Return the bytes of the K/V and of the attention statistics."""
        return self.kv.nbytes + 4 * (self.inter.numel() + self.intra.numel())

    @property
    def cci(self) -> float:
        """Return CCI, how much the chunk's K/V depend on its context (eq 9 to 11): from 0.5, not at all, to 1."""
        own = len(self.ids)
        sums = self.inter.sum(dim=0).tolist()
        outside = sum(total / (own * len(part)) for total, part in zip(sums, self.before, strict=True))
        inside = float(self.intra.sum()) / own**2
        return 1 / (1 + exp(-outside / inside)) if inside else 1.0

    def overlap(self, now: Sequence[Ids]) -> float:
        """Return the share of its inter-attention that went to parts present in ``now`` (beta, eq 6)."""
        if not self.before:
            return 0.0 if now else 1.0
        sums: list[float] = self.inter.sum(dim=0).tolist()
        if not sum(sums):
            return 1.0
        return sum(total for total, part in zip(sums, self.before, strict=True) if part in now) / sum(sums)


@dataclass(frozen=True, eq=False, kw_only=True)
class VariantChoice(SpanKV):
    """The variant chosen for the chunk that is part ``index`` of ``parts``; None: none is known, it runs in full."""

    parts: tuple[PromptPart, ...]
    index: int
    name: str
    cfo: float
    variant: Variant | None

    @property
    def span(self) -> Span:
        """Return the chunk's span in the prompt."""
        return self.parts[self.index].span


def split(prompt: Prompt) -> tuple[PromptPart, ...]:
    """Return the chunks of ``prompt`` and the text between them; what begins like the chunks' sink is no part."""
    # every token looks at a sink, whatever else there is: counted, it would make all prompts alike
    sink, front = (prompt.chunks[0][0].sink, prompt.ids[: prompt.chunks[0][1]]) if prompt.chunks else ((), ())
    differ = (at for at, (one, other) in enumerate(zip(front, sink, strict=False)) if one != other)
    begin = next(differ, min(len(front), len(sink)))
    edges = sorted({begin, len(prompt.ids), *(edge for _, *span in prompt.chunks for edge in span)})
    return tuple(
        PromptPart(prompt.ids[start:stop], Span(start, stop)) for start, stop in pairwise(edges) if start >= begin
    )


def disorder(before: Sequence[Ids], now: Sequence[Ids]) -> float:
    """Return the share of pairs of common parts that stand in another order (gamma, eq 7: Kendall's tau distance)."""
    places = {part: place for place, part in reversed(list(enumerate(now)))}
    common = [places[part] for part in before if part in places]
    pairs = list(combinations(common, 2))
    return sum(first > second for first, second in pairs) / len(pairs) if pairs else 0.0


def fix_overhead(alpha: float, cci: float, fits: float) -> float:
    """Return CFO, the share of a chunk to recompute: ``alpha cci (1 - fits)`` between 0 and 1 (eq 12)."""
    return min(1.0, max(0.0, alpha * cci * (1 - fits)))


def focused(attention: Sequence[float]) -> frozenset[int]:
    """Return which chunks a question focuses on: those above the widest gap of its ``attention``, one figure each.

    Of equal gaps the one below the fewest chunks; where all figures are the same, all.
    """
    order = sorted(range(len(attention)), key=lambda index: -attention[index])
    gaps = [attention[one] - attention[other] for one, other in pairwise(order)]
    if not any(gaps):
        return frozenset(order)
    return frozenset(order[: gaps.index(max(gaps)) + 1])


def scaled(needs: Sequence[float], lengths: Sequence[int], room: int) -> list[int]:
    """Return how many of ``room`` rows to recompute in each chunk: in proportion to ``needs`` times ``lengths``.

    What a chunk cannot take goes to the others; if nothing is needed, all need the same.
    """
    sizes, size = np.array(lengths), np.zeros(len(lengths))
    weights = np.array(needs, dtype=float) * sizes
    while (left := min(room, sizes.sum()) - size.sum()) > 1e-6:  # noqa: PLR2004  (rows)
        open_ = size < sizes
        share = np.where(open_, weights, 0.0)
        share = share if share.sum() else np.where(open_, sizes, 0.0)
        size = np.minimum(sizes, size + left * share / share.sum())
    ends = np.floor(np.concatenate([[0.0], size.cumsum()]) + 1e-6).astype(int)
    return [int(n) for n in np.diff(ends)]
