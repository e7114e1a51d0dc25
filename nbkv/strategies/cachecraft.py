"""Cache-Craft: chunks as earlier prompts had them, and how much of each must be fixed here (arXiv 2502.15734).

Equation numbers are the paper's; ``families.blend.variants`` has the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.families.blend.earlier import HarvestedKV
from nbkv.families.blend.harvest import Harvest
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.blend.variants import (
    Ids,
    PromptPart,
    Variant,
    VariantChoice,
    disorder,
    fix_overhead,
    focused,
    scaled,
    split,
)
from nbkv.families.options import check, check_count, check_share
from nbkv.kv import Span
from nbkv.models.attention.layer import Attended
from nbkv.scalars import is_number
from nbkv.selection import best, count

_LEAST_CFO = 0.05  # what a rank is at most for: a use that corrects nothing is not worth any number of others
_SEVERAL = 2  # chunks, of which a question can look at one rather than at another


@dataclass(kw_only=True, repr=False)
class CacheCraft(Harvest):
    """Keep up to ``variants`` of a chunk from real prompts, take the one that needs least, and recompute just that.

    A chunk of which no variant is known is computed in its context in the prompt, as new text is, and becomes one. What
    ``session.chunk`` has encoded of it is not used, since it was in no prompt; only where a prompt begins with a chunk
    behind its own sink are these K/V taken, as the exact prefix that they are.

    Of known variants the one with the lowest CFO = ``alpha`` CCI (1 - beta') is taken, the share of the chunk's tokens
    to recompute, those first that paid most attention to the outside (eq 12, 14). With ``budget`` the needs are scaled
    so that they add up to that share of all reused tokens. ``alpha`` is tuned offline for each model in the paper:
    ``nbkv.studies.alpha.fit_alpha`` does so.

    Early termination, with ``focus``: layer by layer the question's attention to each chunk is summed up; once the same
    chunks have been in focus ``focus`` layers in a row, the others are recomputed no further, and their rows keep what
    was reused in the layers above. In focus is what lies above the widest gap: the paper's own rule was not read, only
    accounts of it, which find focused chunks after some 10 to 15 layers. So it is off (0) unless asked for. It never
    applies at ``budget=1``, nor on models whose layers share K/V.

    After a request each chunk of which rows were run becomes a variant. Attention is read from the rows as they are
    run, which computes it a second time for them but runs no layer more. Rows that were not run keep what their old
    variant says about parts that stand here too. Text between chunks counts as a part like any chunk. A chunk that was
    its prompt's exact prefix was not run there, and leaves no variant.

    What goes first when there is no more room: least uses times 1 - CCI (the paper ranks by reuse and low need to
    recompute; its formula was not seen). Tiers with ``policy=rank`` are told of each use of a chunk, and of its CFO:
    what is used often and corrected little stays there longest.
    """

    name: ClassVar[str] = "cachecraft"
    paper: ClassVar[str] = "Cache-Craft, arXiv 2502.15734"
    summary: ClassVar[str] = "reuse chunks as earlier prompts had them, recompute what the new surroundings change"
    needs: ClassVar[tuple[str, ...]] = (*Harvest.needs, "attention", "causal")

    alpha: float = 1.0
    budget: float | None = None
    variants: int = 5
    store_share: float = 0.25
    focus: int = 0

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        super().__post_init__()
        if self.budget is not None:
            check_share(self, "budget")
        check_count(self, "variants", "focus")
        check(self, "alpha", lambda alpha: is_number(alpha) and alpha >= 0, "a number >= 0")

    # which variant

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:
        """Return for each chunk the variant with the lowest CFO, and the request without chunks that have none."""
        parts, mine = split(request.prompt), self._variants(ctx)
        names = {start: chunk.name for chunk, start, _ in request.prompt.chunks}
        chosen = {
            part.span.start: self._choose(parts, index, names[part.span.start], mine)
            for index, part in enumerate(parts)
            if part.span.start in names
        }
        known = tuple(chunk for chunk in request.prompt.chunks if chosen[chunk[1]].variant is not None)
        return replace(request, prompt=replace(request.prompt, chunks=known)), chosen

    def _choose(
        self, parts: tuple[PromptPart, ...], index: int, name: str, variants: Sequence[Variant]
    ) -> VariantChoice:
        now = [earlier.ids for earlier in parts[:index]]
        same = [one for one in variants if one.ids == parts[index].ids]
        if not same:
            return VariantChoice(parts=parts, index=index, name=name, cfo=1.0, variant=None)
        needs = [self.need(one, now) for one in same]
        cfo = min(needs)
        best_one = same[needs.index(cfo)]
        return VariantChoice(
            kv=best_one.kv, base=best_one.base, parts=parts, index=index, name=name, cfo=cfo, variant=best_one
        )

    def need(self, variant: Variant, now: Sequence[Ids]) -> float:
        """Return the CFO of ``variant`` behind the parts ``now`` (eq 12)."""
        fits = variant.overlap(now) * (1 - disorder(variant.before, now))
        return fix_overhead(self.alpha, variant.cci, fits)

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return of each chunk the rows that need it, as many as its CFO or the budget says."""
        every = choices(partial)
        if every:
            each = (f"{one.name} " + ("new" if one.variant is None else f"{one.cfo:.2f} (harvested)") for one in every)
            partial.notes.append(f"CFO by chunk: {', '.join(each)}")
        chosen = [(one, one.variant.inter.sum(dim=1)) for one in every if one.variant is not None]
        rows = [within(partial.reused, one.span) for one, _ in chosen]
        lengths = [len(some) for some in rows]
        if self.budget is None:
            sizes = [count(one.cfo, length) for (one, _), length in zip(chosen, lengths, strict=True)]
        else:
            sizes = scaled([one.cfo for one, _ in chosen], lengths, partial.room(self.budget))
        picked = [
            best(scores[(some - one.span.start).cpu()].to(some.device), some, size)
            for (one, scores), some, size in zip(chosen, rows, sizes, strict=True)
        ]
        return torch.cat([partial.reused[:0], *picked])

    # attention statistics and harvest

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows, and sum up the attention of chunks' rows, and the question's, to each part of the prompt."""
        looking = choices(partial)
        if not looking:
            return super().run(partial, chosen)
        parts = looking[0].parts
        partial.begin(chosen)
        belongs = torch.zeros(partial.length, len(parts), device=chosen.device)
        for index, part in enumerate(parts):
            belongs[part.span.start : part.span.stop, index] = 1
        seen = torch.zeros_like(belongs)
        question = asking(partial, parts)
        inside = [torch.arange(one.span.start, one.span.stop, device=chosen.device) for one in looking]
        watched = torch.cat([*inside, question]).unique()

        def watching() -> AbstractContextManager[None]:
            rows = partial.running

            def see(one: Attended) -> None:
                attended = one.weights.mean(dim=0).to(rows.device) @ belongs
                seen.index_add_(0, rows[one.rows.to(rows.device)], attended / partial.n_layers)

            return partial.watching(see, watched)

        left = self._focus(partial, chosen, lambda: seen[question].sum(dim=0).tolist(), watching)
        with watching():
            rows = partial.running
            logits = super().run(partial, left)
        ran = torch.zeros(partial.length, dtype=torch.bool)
        ran[rows.cpu()] = True
        partial.found |= {"seen": seen.cpu(), "ran": ran}
        return logits

    def _focus(
        self,
        partial: PartialPrefill,
        chosen: torch.Tensor,
        attention: Callable[[], list[float]],
        watching: Callable[[], AbstractContextManager[None]],
    ) -> torch.Tensor:
        """Run the rows until it is plain which chunks are in focus; return those of ``chosen`` that go on."""
        looking = choices(partial)
        stops = not self.focus or self.budget == 1 or partial.adapter.capabilities.shared_kv
        if stops or len(looking) < _SEVERAL or not len(chosen):
            return chosen
        before: list[frozenset[int]] = []
        for layer in range(1, partial.n_layers):
            with watching():
                partial.advance(layer, select=False)
            sums = attention()
            before = [*before, focused([sums[one.index] for one in looking])][-self.focus :]
            if len(before) == self.focus and len(set(before)) == 1:
                ended = [one for at, one in enumerate(looking) if at not in before[0]]
                dropped = torch.cat([chosen[:0], *(within(chosen, one.span) for one in ended)])
                if len(dropped):
                    names = ", ".join(one.name for one in looking if one not in ended)
                    partial.notes.append(f"after layer {layer - 1} only {names} went on: the question looks there")
                left = chosen[~torch.isin(chosen, dropped)]
                partial.narrow(left)
                return left
        return chosen

    def harvest(
        self,
        partial: PartialPrefill,
        ids: Sequence[int],  # noqa: ARG002
        request: Request,
        ctx: Context,
    ) -> Sequence[HarvestedKV]:
        """Return all variants with the new ones; of more than ``variants`` of a chunk the least worth is left out."""
        every, chunks = list(self.kept(ctx)), {start: chunk for chunk, start, _ in request.prompt.chunks}
        for one in choices(partial):
            if one.span.start in chunks:
                chunk = chunks[one.span.start]
                ctx.store.rank(ctx.space(), (*chunk.sink, *chunk.token_ids), 1 / max(one.cfo, _LEAST_CFO))
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
        if one.variant is not None:
            old = dict(zip(one.variant.before, one.variant.inter.T, strict=True))
            known = [old.get(each, torch.zeros(stop - start)) for each in before]
            inter = torch.where(ran, inter, torch.stack(known, dim=1) if known else inter)
            intra = torch.where(ran[:, 0], intra, one.variant.intra)
        return Variant(
            space=self.space(ctx),
            kv=partial.cache.read(start, stop).compact(),
            base=start,
            ids=one.parts[one.index].ids,
            before=before,
            inter=inter,
            intra=intra,
        )


def choices(partial: PartialPrefill) -> list[VariantChoice]:
    """Return what was chosen for the chunks of a prompt that lie behind its exact prefix, in order."""
    return [
        one
        for _, one in sorted(partial.supplied.items())
        if isinstance(one, VariantChoice) and one.span.stop > partial.prefix
    ]


def within(rows: torch.Tensor, span: Span) -> torch.Tensor:
    """Return those of ``rows`` that lie in ``span``."""
    return rows[(rows >= span.start) & (rows < span.stop)]


def asking(partial: PartialPrefill, parts: Sequence[PromptPart]) -> torch.Tensor:
    """Return the rows of the text behind the last chunk, or the prompt's last row where it ends with a chunk."""
    last = parts[-1].span
    chunks = {one.span for one in choices(partial)}
    return partial.last if last in chunks else within(partial.fresh, last)
