"""KVCOMM: what agents tell each other, reused with the offsets that earlier texts had there (arXiv 2510.12872)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption
from nbkv.events import AnchorsKept, Bus, Fallback, GateDecided
from nbkv.families.agents import anchor_pool
from nbkv.families.agents.alone import alone, front, rotated
from nbkv.families.agents.anchor_source import AnchorSource, MeasuredReuse
from nbkv.families.agents.anchors import Anchor, Slot, marks, waiting
from nbkv.families.agents.gate import Gate
from nbkv.families.agents.offsets import ALIGNMENTS, Alignment, Neighbours, followed, offset, total, trust
from nbkv.families.agents.serving_plan import ServingPlan, SlotKV
from nbkv.families.blend.earlier import HarvestedKV
from nbkv.families.blend.harvest import Harvest
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.fallback import in_full
from nbkv.families.options import check, check_choice, check_count, check_share
from nbkv.families.prefix.base import encode
from nbkv.kv import KV
from nbkv.models.work import Work
from nbkv.result import Chunk, Provenance
from nbkv.scalars import is_number, is_whole
from nbkv.stopping import Stopper
from nbkv.stores.spec import parse_size
from nbkv.strategy import Prefilled, Strategy, parse
from nbkv.timing import timed

_ANSWER = 64  # tokens of an answer over which the KL of reuse is measured, in one pass


@dataclass(kw_only=True, repr=False)
class KVComm(Harvest):
    """Reuse a chunk in a template that came before with the offsets its K/V will have there, and the text behind it.

    A prompt is a template, the text around its chunks, and what stands in its slots, the chunks. Computed in full it
    leaves an *anchor* a slot: how far the chunk's K/V were from those it has alone, and the K/V of the text behind it.
    A later prompt of the same template takes its chunks' own K/V, adds the weighted mean of the offsets of the nearest
    anchors, and takes the text behind from them. Texts that differ belong into chunks.

    The gate lets a prompt through if each of its slots has two anchors long enough, weights of an entropy below
    ``gamma`` times that of even ones, more than ``min_explained`` of an anchor's offsets got right by the others (at 0
    naive reuse is as near), and where reuse was measured a KL from full of at most ``max_kl`` nats, on the mean and at
    any token that it would have changed (None: not asked, as in the paper). What it refuses is computed in full, exact,
    and leaves anchors.

    Not as in the paper: distances are relative, so that ``temperature`` means the same for every model (the released
    formulas saturate); ``align="token"`` likens a token to the nearest one of an anchor rather than to that at its
    position (``"position"``, the paper's way); offsets are added as far as they prove right for anchors. The last
    ``tail`` tokens of the text behind the last chunk are run: what they found in other texts is not what they would
    find in these (0: only the last row).

    At most ``anchors`` stay at a place, of at most ``anchor_bytes`` in all (such as "256MiB"; None: ``store_share`` of
    the store's limit, and besides it).
    """

    name: ClassVar[str] = "kvcomm"
    family: ClassVar[str] = "agents"
    paper: ClassVar[str] = "KVCOMM, arXiv 2510.12872"
    summary: ClassVar[str] = "reuse what agents tell each other, with offsets approximated from earlier texts there"
    needs: ClassVar[tuple[str, ...]] = (*Harvest.needs, "causal")
    budget = 0.0  # no rows are run again; no option
    contract_exempt: ClassVar[dict[str, str]] = {"memory": "a prompt that the gate refuses takes what prefix takes"}

    gamma: float = 0.8
    max_kl: float | None = 0.1
    min_explained: float | None = 0.0
    temperature: float = 0.05
    align: str = "token"
    anchors: int = 20
    tail: int = 16
    anchor_bytes: int | str | None = None
    store_share: float = 0.25

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        super().__post_init__()
        check_share(self, "gamma")
        check(self, "max_kl", lambda bound: bound is None or (is_number(bound) and bound >= 0), "nats >= 0, or None")
        check(self, "min_explained", lambda least: least is None or (is_number(least) and least < 1), "< 1, or None")
        check(self, "temperature", lambda value: is_number(value) and value > 0, "a number above 0")
        check_choice(self, "align", ALIGNMENTS)
        check_count(self, "anchors", least=2)
        check_count(self, "tail")
        self._check_bytes()

    def _check_bytes(self) -> None:
        if isinstance(self.anchor_bytes, str):
            parse_size(self.anchor_bytes)
        elif self.anchor_bytes is not None and not is_whole(self.anchor_bytes, 0):
            message = f"anchor_bytes={self.anchor_bytes!r} is not accepted: a size such as '256MiB', bytes, or None"
            raise BadOption(message)

    def at_full_budget(self) -> Strategy:
        """Return this strategy with a gate that refuses everything."""
        return replace(self, gamma=0.0)

    @property
    def alignment(self) -> Alignment:
        """Return what likens tokens to those of anchors."""
        return Alignment(self.align, self.temperature)

    @property
    def gate(self) -> Gate:
        """Return the gate."""
        return Gate(self.gamma, self.max_kl, self.alignment, self.min_explained)

    # serving

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Reuse the prompt if the gate lets all of its slots through; else compute it in full, as ``prefix`` does."""
        if len(request.ids) > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no chunk reuse")
        clock = timed()
        plan = self.plan(request, ctx)
        for decision in plan.decisions:
            ctx.tell(GateDecided, **asdict(decision), accepted=decision.accepted)
        if plan.placed and not plan.refused:
            prefilled = self.reuse(request, plan, ctx, clock)
            prefilled.notes.append(f"kvcomm: reused {'; '.join(map(str, plan.decisions))}")
            return prefilled
        spent, exact = clock(), parse("prefix")
        prefilled = exact.prefill(request, ctx)
        prefilled.by, prefilled.own = exact, plan
        prefilled.select_s += spent
        prefilled.select.token_layers += plan.work.token_layers
        if plan.refused:
            prefilled.notes.append(f"kvcomm: computed in full: {'; '.join(map(str, plan.refused))}")
            ctx.tell(Fallback, why=prefilled.notes[-1])
        return prefilled

    def plan(self, request: Request, ctx: Context) -> ServingPlan:
        """Return what the gate makes of the slots of a prompt that reach behind its exact prefix."""
        pool, known = self._anchors(ctx), ctx.store.holds(ctx.space(), request.ids)
        open_slots = waiting(request.prompt, known)
        there = [anchor_pool.at(pool, self.space(ctx), slot.place) for slot in open_slots]
        unknown = [self.gate.unknown(slot, anchors) for slot, anchors in zip(open_slots, there, strict=True)]
        if any(unknown):
            return ServingPlan(open_slots, tuple(each for each in unknown if each is not None))
        work = ctx.work()
        placed = [
            self._placed(slot, anchors, request, ctx, work) for slot, anchors in zip(open_slots, there, strict=True)
        ]
        decisions = [
            self.gate.decide(each.slot, each.near, anchors) for each, anchors in zip(placed, there, strict=True)
        ]
        return ServingPlan(open_slots, tuple(decisions), tuple(placed), work)

    def _placed(self, slot: Slot, anchors: Sequence[Anchor], request: Request, ctx: Context, work: Work) -> SlotKV:
        """Return the K/V to place in ``slot``."""
        own, ids = alone(slot.chunk, request, ctx, work), slot.chunk.token_ids
        near = self.alignment.neighbours(marks(own.kv), ids, self.alignment.long_enough(len(ids), anchors))
        kv = total(own.kv, rotated(self.offsets(near, trust(anchors)), own.base, ctx))
        return SlotKV(kv=kv, base=own.base, slot=slot, near=near, encoded=own.encoded)

    def offsets(self, near: Neighbours, factors: torch.Tensor) -> KV:
        """Return the offsets to add to a chunk's own K/V."""
        return offset(near, factors)

    def reuse(self, request: Request, plan: ServingPlan, ctx: Context, clock: Callable[[], float]) -> Prefilled:
        """Place the K/V of ``plan`` and run the rest; loading has begun with ``clock``."""
        supplied: dict[int, SpanKV] = {}
        spans = list(request.prompt.chunks)
        for one in plan.placed:
            start, stop = one.slot.behind
            supplied[one.slot.span.start] = one
            asks = stop == len(request.ids)
            text = followed(one.near, request.ids[start : stop - self.tail * asks])
            if text is not None:
                ids = request.ids[start : start + text.length]
                lineage = self.space(ctx).lineage
                span = Chunk(name="", text="", token_ids=ids, sink=(), model=ctx.model, lineage=lineage)
                spans.append((span, start, start + text.length))
                supplied[start] = SpanKV(kv=text)
        prompt = replace(request.prompt, chunks=tuple(sorted(spans, key=lambda span: span[1])))
        prefilled = self.blend(replace(request, prompt=prompt), supplied, ctx, clock)
        prefilled.rows.token_layers += plan.work.token_layers
        sources = prefilled.provenance
        sources[sources == Provenance.CHUNK] = Provenance.CORRECTED
        for one in plan.placed:
            if one.encoded:
                own = sources[one.slot.span.start : one.slot.span.stop]
                own[own == Provenance.CORRECTED] = Provenance.FRESH
        return prefilled

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return no rows: nothing that is reused runs again."""
        return partial.reused[:0]

    # anchors

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep what this prompt teaches: anchors where it was computed in full, else which of them were of use.

        Its answer is encoded alone, so that other agents find it as a chunk.
        """
        if prefilled.by is None:
            super().commit(prefilled, ids, request, ctx)
        else:
            try:
                if request.keep:
                    self.keep(self._learned(prefilled, ids, request, ctx), prefilled, ctx)
            finally:
                prefilled.by.commit(prefilled, ids, request, ctx)
        answer = tuple(ids[len(request.ids) :])
        if request.keep and answer and len(ids) <= ctx.adapter.capabilities.stable_context and not ctx.stopper.stopped:
            work = Work()
            prefilled.notes += encode((*front(request, ctx), *answer), ctx, work)
            prefilled.select.token_layers += work.token_layers

    def harvest(
        self,
        partial: PartialPrefill,
        ids: Sequence[int],  # noqa: ARG002
        request: Request,  # noqa: ARG002
        ctx: Context,
    ) -> Sequence[HarvestedKV]:
        """Return all anchors, with the uses that a reused prompt made of them."""
        placed = [one for one in partial.supplied.values() if isinstance(one, SlotKV)]
        return anchor_pool.used(self._anchors(ctx), [(one.slot.place, one.near) for one in placed], self.space(ctx))

    def worth(self, kept: HarvestedKV) -> float:
        """Return how many prompts an anchor was of use to: the least used is evicted first."""
        return kept.uses if isinstance(kept, Anchor) else 0.0

    def limit(self, ctx: Context) -> int:
        """Return how many bytes of anchors may be kept."""
        given = self.anchor_bytes
        if given is None:
            return super().limit(ctx)
        return parse_size(given) if isinstance(given, str) else given

    def keep(self, found: Sequence[HarvestedKV], prefilled: Prefilled, ctx: Context) -> int:
        """Keep the anchors that were ``found`` as far as there is room, and tell how many; return their bytes."""
        nbytes = super().keep(found, prefilled, ctx)
        left = self.kept(ctx)
        gone = len(found) - len(left)
        ctx.tell(AnchorsKept, anchors=len(left), nbytes=nbytes, limit=self.limit(ctx), evicted=gone)
        return nbytes

    def _anchors(self, ctx: Context) -> list[Anchor]:
        return [one for one in self.kept(ctx) if isinstance(one, Anchor)]

    def _learned(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> list[Anchor]:
        """Return all anchors with those that a prompt computed in full leaves, one a slot."""
        plan: ServingPlan = prefilled.own
        source = AnchorSource(request, prefilled.cache, ctx, self.space(ctx), self.alignment, Work())
        answer, measured = tuple(ids[len(request.ids) :])[:_ANSWER], None
        if plan.measures and answer and not ctx.stopper.stopped:
            measured = self._measured(source, prefilled.logits, answer)
            told = f"kvcomm: reused, this answer would have a KL of {measured.kl:.2g} from full"
            prefilled.notes.append(told + f", another word at one of {measured.changed:.2g}" * bool(measured.changed))
        every = source.added_to(self._anchors(ctx), self.anchors, measured)
        prefilled.select.token_layers += source.work.token_layers
        return every

    def _measured(self, source: AnchorSource, first: torch.Tensor, answer: Sequence[int]) -> MeasuredReuse:
        """Return what reuse would make of an ``answer`` of full, to whose first token the logits ``first`` led."""
        apart = replace(source.ctx, bus=Bus(), stopper=Stopper())
        other = self.reuse(source.request, self.plan(source.request, apart), apart, timed())
        source.work.token_layers += other.rows.token_layers
        reused = source.answered(other.logits, answer, other.cache)
        return MeasuredReuse.of(source.answered(first, answer), reused.to(first.device))
