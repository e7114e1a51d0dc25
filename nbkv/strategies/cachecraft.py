"""Cache-Craft: chunks as earlier prompts had them, and how much of each must be fixed here (arXiv 2502.15734).

Equation numbers are the paper's. ``inter(i, j)`` is the attention that chunk ``i`` paid to an earlier part ``j`` of its
prompt, ``intra(i)`` that to itself (eq 3), summed over tokens, averaged over heads and layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import exp
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.families.blend.harvest import Harvest, HarvestedKV
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check, check_count, check_share, is_number
from nbkv.kv import KV, Span
from nbkv.models.attention.layer import Attended
from nbkv.prompts.prompt import Prompt
from nbkv.selection import best, count

Ids = tuple[int, ...]


class PromptPart(NamedTuple):
    """A chunk, or the text between two chunks, by its token ids; where it stands in a prompt."""

    ids: Ids
    span: Span


@dataclass(frozen=True, eq=False, kw_only=True)
class Variant(HarvestedKV):
    """Chunk ``ids`` as it was in a prompt: its KV, the parts ``before`` it, and what its tokens attended to.

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
        """Return the bytes of the KV and of what was noted about it."""
        return self.kv.nbytes + 4 * (self.inter.numel() + self.intra.numel())

    @property
    def cci(self) -> float:
        """Return how much the chunk was shaped from outside (eq 9 to 11): from 0.5, not at all, to 1."""
        own = len(self.ids)
        sums = self.inter.sum(dim=0).tolist()
        outside = sum(total / (own * len(part)) for total, part in zip(sums, self.before, strict=True))
        inside = float(self.intra.sum()) / own**2
        return 1 / (1 + exp(-outside / inside)) if inside else 1.0

    def overlap(self, now: Sequence[Ids]) -> float:
        """Return the share of its attention to the outside that went to parts which are here too (beta, eq 6)."""
        if not self.before:
            return 0.0 if now else 1.0
        sums: list[float] = self.inter.sum(dim=0).tolist()
        if not sum(sums):
            return 1.0
        return sum(total for total, part in zip(sums, self.before, strict=True) if part in now) / sum(sums)


@dataclass(frozen=True, eq=False, kw_only=True)
class VariantChoice(SpanKV):
    """What was chosen for the chunk that is part ``index`` of ``parts``: a variant, or None for its canonical KV."""

    parts: tuple[PromptPart, ...]
    index: int
    name: str
    cfo: float
    variant: Variant | None

    @property
    def span(self) -> Span:
        """Return where the chunk stands."""
        return self.parts[self.index].span

    @property
    def scores(self) -> torch.Tensor:
        """Return what speaks for recomputing each token, ``[T]``: its attention to the outside (eq 14).

        A canonical chunk has seen nothing outside, so its tokens tie, and go from the first on.
        """
        return -torch.arange(self.span.length) if self.variant is None else self.variant.inter.sum(dim=1)


@dataclass(kw_only=True, repr=False)
class CacheCraft(Harvest):
    """Keep up to ``variants`` of a chunk from real prompts, take the one that needs least, and recompute just that.

    The need is CFO = ``alpha`` CCI (1 - beta'), the share of the chunk's tokens to recompute, those first that paid
    most attention to the outside (eq 12, 14). A canonical chunk is the variant with nothing before it: CCI 0.5, and
    beta' 0 unless it stands first here too. With ``budget`` the needs are scaled so that they add up to that share of
    all reused tokens. ``alpha`` is tuned per model and task in the paper; its values are not given there.

    After a request each chunk of which rows were run becomes a variant. Attention is read from the rows as they are
    run, which computes it a second time for them but runs no layer more. Rows that were not run keep what their old
    variant says about parts that stand here too; canonical ones are taken to have looked inside the chunk only. Text
    between chunks counts as a part like any chunk.

    What goes first when there is no more room: least uses times 1 - CCI (the paper ranks by reuse and low need to
    recompute; its formula was not seen). Not here: stopping early on chunks that the question does not look at.
    """

    name: ClassVar[str] = "cachecraft"
    paper: ClassVar[str] = "Cache-Craft, arXiv 2502.15734"
    summary: ClassVar[str] = "reuse chunks as earlier prompts had them, recompute what the new surroundings change"
    needs: ClassVar[tuple[str, ...]] = (*Harvest.needs, "attention", "causal")

    alpha: float = 1.0
    budget: float | None = None
    variants: int = 5
    store_share: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no share, no count, no factor."""
        super().__post_init__()
        if self.budget is not None:
            check_share(self, "budget")
        check_count(self, "variants")
        check(self, "alpha", lambda alpha: is_number(alpha) and alpha >= 0, "a number >= 0")

    # which variant

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:
        """Return for each chunk the variant with the lowest CFO."""
        parts, mine = split(request.prompt), self._variants(ctx)
        names = {start: chunk.name for chunk, start, _ in request.prompt.chunks}
        return request, {
            part.span.start: self._choose(parts, index, names[part.span.start], mine)
            for index, part in enumerate(parts)
            if part.span.start in names
        }

    def _choose(
        self, parts: tuple[PromptPart, ...], index: int, name: str, variants: Sequence[Variant]
    ) -> VariantChoice:
        now = [earlier.ids for earlier in parts[:index]]
        cfo, variant = self.need(None, now), None
        for one in variants:
            if one.ids == parts[index].ids and (needs := self.need(one, now)) < cfo:
                cfo, variant = needs, one
        kv, base = (None, 0) if variant is None else (variant.kv, variant.base)
        return VariantChoice(kv=kv, base=base, parts=parts, index=index, name=name, cfo=cfo, variant=variant)

    def need(self, variant: Variant | None, now: Sequence[Ids]) -> float:
        """Return the CFO of ``variant`` (None: canonical) behind the parts ``now`` (eq 12)."""
        if variant is None:
            return fix_overhead(self.alpha, 0.5, 0.0 if now else 1.0)
        fits = variant.overlap(now) * (1 - disorder(variant.before, now))
        return fix_overhead(self.alpha, variant.cci, fits)

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return of each chunk the rows that need it, as many as its CFO or the budget says."""
        chosen = choices(partial)
        rows = [partial.reused[(partial.reused >= one.span.start) & (partial.reused < one.span.stop)] for one in chosen]
        sizes = [count(one.cfo, len(some)) for one, some in zip(chosen, rows, strict=True)]
        if self.budget is not None:
            lengths = [len(some) for some in rows]
            sizes = scaled([one.cfo for one in chosen], lengths, partial.room(self.budget))
        if chosen:
            each = (f"{one.name} {one.cfo:.2f}{'' if one.variant is None else ' (harvested)'}" for one in chosen)
            partial.notes.append(f"CFO by chunk: {', '.join(each)}")
        picked = [
            best(one.scores[(some - one.span.start).cpu()].to(some.device), some, size)
            for one, some, size in zip(chosen, rows, sizes, strict=True)
        ]
        return torch.cat([partial.reused[:0], *picked])

    # what is learned on the way

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows, and note which parts of the prompt those of chunks attend to."""
        looking = choices(partial)
        if not looking:
            return super().run(partial, chosen)
        rows, parts = partial.begin(chosen), looking[0].parts
        belongs = torch.zeros(partial.length, len(parts), device=rows.device)
        for index, part in enumerate(parts):
            belongs[part.span.start : part.span.stop, index] = 1
        seen = torch.zeros(partial.length, len(parts), device=rows.device)

        def see(one: Attended) -> None:
            attended = one.weights.mean(dim=0).to(rows.device) @ belongs
            seen.index_add_(0, rows[one.rows.to(rows.device)], attended / partial.n_layers)

        inside = torch.cat([torch.arange(one.span.start, one.span.stop) for one in looking]).to(rows.device)
        with partial.watching(see, inside):
            logits = super().run(partial, chosen)
        ran = torch.zeros(partial.length, dtype=torch.bool)
        ran[rows.cpu()] = True
        partial.found |= {"seen": seen.cpu(), "ran": ran}
        return logits

    def harvest(
        self,
        partial: PartialPrefill,
        ids: Sequence[int],  # noqa: ARG002
        request: Request,  # noqa: ARG002
        ctx: Context,
    ) -> Sequence[HarvestedKV]:
        """Return all variants with the new ones; of more than ``variants`` of a chunk the least worth is left out."""
        every = list(self.kept(ctx))
        for one in choices(partial):
            if one.variant is not None:
                every = [
                    replace(v, uses=v.uses + 1) if v is one.variant else v for v in every if isinstance(v, Variant)
                ]
            if one.span.start < partial.prefix or not partial.found["ran"][one.span.start : one.span.stop].any():
                continue
            new = self._variant(one, partial, ctx)
            same = [v for v in every if isinstance(v, Variant) and (v.space, v.ids) == (new.space, new.ids)]
            again = [v for v in same if v.before == new.before]
            new = replace(new, uses=1 + sum(v.uses for v in again))
            others = sorted((v for v in same if v not in again), key=self.worth, reverse=True)
            gone = [*again, *others[max(0, self.variants - 1) :]]
            every = [v for v in every if v not in gone] + [new] * bool(self.variants)
        return every

    def worth(self, kept: HarvestedKV) -> float:
        """Return how often it was used, less what had to be recomputed in it on the whole."""
        return kept.uses * (1 - kept.cci) if isinstance(kept, Variant) else 0.0

    def _variants(self, ctx: Context) -> list[Variant]:
        space = self.space(ctx)
        return [one for one in self.kept(ctx) if isinstance(one, Variant) and one.space == space]

    def _variant(self, one: VariantChoice, partial: PartialPrefill, ctx: Context) -> Variant:
        """Return the chunk as it is now, with what is known of its attention."""
        start, stop = one.span
        seen, ran = partial.found["seen"][start:stop], partial.found["ran"][start:stop, None]
        earlier = [part.ids for part in one.parts[: one.index]]
        before = tuple(dict.fromkeys(earlier))
        columns = [seen[:, [i for i, part in enumerate(earlier) if part == each]].sum(dim=1) for each in before]
        inter = torch.stack(columns, dim=1) if columns else seen[:, :0]
        intra = seen[:, one.index]
        if one.variant is None:  # nothing outside was there to look at: all weight stayed inside
            old_inter, old_intra = torch.zeros_like(inter), (inter.sum(dim=1) + intra)[ran[:, 0]].mean()
        else:
            old = dict(zip(one.variant.before, one.variant.inter.T, strict=True))
            old_inter = torch.stack([old.get(each, torch.zeros(stop - start)) for each in before], dim=1)
            old_intra = one.variant.intra
        return Variant(
            space=self.space(ctx),
            kv=partial.cache.read(start, stop).compact(),
            base=start,
            ids=one.parts[one.index].ids,
            before=before,
            inter=torch.where(ran, inter, old_inter),
            intra=torch.where(ran[:, 0], intra, old_intra),
        )


def choices(partial: PartialPrefill) -> list[VariantChoice]:
    """Return what was chosen for the chunks of a prompt that lie behind its exact prefix, in order."""
    return [
        one
        for _, one in sorted(partial.held.items())
        if isinstance(one, VariantChoice) and one.span.stop > partial.prefix
    ]


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


def scaled(needs: Sequence[float], lengths: Sequence[int], room: int) -> list[int]:
    """Return how many of ``room`` rows each chunk gets: in proportion to ``needs`` times ``lengths``, at most all.

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
