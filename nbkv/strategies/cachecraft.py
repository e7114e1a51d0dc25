"""Cache-Craft: chunks as earlier prompts had them, and how much of each must be fixed here (arXiv 2502.15734).

Equation numbers are the paper's; ``families.blend.variants`` has the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.families.blend.harvest import Harvest, HarvestedKV
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.blend.variants import (
    Ids,
    PromptPart,
    Variant,
    VariantChoice,
    disorder,
    fix_overhead,
    scaled,
    split,
)
from nbkv.families.options import check, check_count, check_share, is_number
from nbkv.models.attention.layer import Attended
from nbkv.selection import best, count


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
        """Raise ``BadOption`` for options out of range."""
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

    # attention statistics and harvest

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows, and sum up the attention of chunks' rows to each part of the prompt."""
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
        """Return the eviction score: uses times 1 - CCI."""
        return kept.uses * (1 - kept.cci) if isinstance(kept, Variant) else 0.0

    def _variants(self, ctx: Context) -> list[Variant]:
        space = self.space(ctx)
        return [one for one in self.kept(ctx) if isinstance(one, Variant) and one.space == space]

    def _variant(self, one: VariantChoice, partial: PartialPrefill, ctx: Context) -> Variant:
        """Return the chunk's present K/V as a variant, with the attention statistics of its rows."""
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
        for _, one in sorted(partial.supplied.items())
        if isinstance(one, VariantChoice) and one.span.stop > partial.prefix
    ]
