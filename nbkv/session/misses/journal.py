"""Each session's entries in the past, and the explanation that a result carries: made when asked, never before."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from nbkv.context import Context
from nbkv.errors import UnsupportedModel
from nbkv.families.routing.cost_model import CostModel, are_known, costs
from nbkv.families.routing.experience import pace
from nbkv.inference.run import RequestRun
from nbkv.misses import Why
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk, Result
from nbkv.session.lock import SessionLock
from nbkv.session.misses.diagnosis import Diagnosis, Inquiry
from nbkv.session.misses.past import Leavers, Past, Seen, past
from nbkv.session.misses.price import CHUNKS, priced
from nbkv.strategy import Prefilled, Strategy, parse

_SEARCHED = 32  # sequences of a session in which runs of a prompt are looked for


class Journal:
    """What one session writes down of its requests and chunks: ids and where they may be found, no tensors."""

    def __init__(self, ctx: Context, lock: SessionLock, kept: Past | None = None) -> None:
        """Begin to hear what leaves the store of ``ctx``; costs are measured while nobody has ``lock``."""
        self._ctx: Context | None = ctx
        self._lock, self._past = lock, past if kept is None else kept
        self._leavers = Leavers(self._past, ctx.store, ctx.tenant)
        ctx.bus.add(self._leavers)

    def use(self, ctx: Context) -> None:
        """Take note that the session runs on ``ctx`` from now on, which has another store."""
        self._ctx = ctx
        self._leavers.store = weakref.ref(ctx.store)

    def close(self) -> None:
        """Let go of the model; what was written down stays."""
        self._ctx = None

    def encoding(self, name: str) -> None:
        """Take note that a chunk is about to be encoded: what is evicted meanwhile leaves for it."""
        self._leavers.during = f"the encoding of chunk {name!r}"

    def chunk(self, made: Chunk, ctx: Context) -> None:
        """Write down that the store has ``made``, behind its sink."""
        self._note((*made.sink, *made.token_ids), f"chunk {made.name!r}", ctx)

    def request(self, run: RequestRun, prefilled: Prefilled | None, tokens: tuple[int, ...]) -> Explanation:
        """Write down a request that has ended with ``tokens``; return what can explain its misses later."""
        ctx, prompt = run.ctx, run.prompt
        n, known = len(prompt.ids), ctx.adapter.capabilities
        served: Strategy = (prefilled and prefilled.by) or run.strategy
        unread = lost = ""
        if n > known.stable_context:
            unread = lost = "beyond its trained length this model's KV depends on the prompt's length"
        elif type(served).prefill is Strategy.prefill:
            unread = f"{run.strategy.spec} took nothing from the store"
        if prefilled is None:
            lost = "it was interrupted"
        elif not lost and prefilled.lease is None:
            lost = f"{served.spec} keeps nothing" if served.exact else f"{served.spec} is approximate"
        ids = (*prompt.ids, *tokens[:-1])
        seen = self._note(ids, f"request {ctx.request}", ctx, prompt=n, lost=lost, said=prompt.said)
        declined = None if prefilled is None else prefilled.declined
        return Explanation(
            request=ctx.request,
            seen=seen,
            past=self._past,
            codec=ctx.codec,
            journal=weakref.ref(self),
            reusable=0 if n > known.stable_context else ctx.adapter.reusable(n),
            chunks=tuple((chunk.path(start, known.block), start, stop) for chunk, start, stop in prompt.chunks),
            unread=unread,
            places=served.places,
            states=bool(known.states),
            declined=declined.why if declined else "",
            declined_s=declined.seconds if declined else None,
        )

    def earlier(self, ctx: Context) -> list[Seen]:
        """Return the newest prompts and answers of this session whose exact K/V its store was given, the oldest first.

        Those that a later one only continues are left out.
        """
        found: list[Seen] = []
        for seen in self._past.before(self._past.number(), ctx.space().tenant):
            own = (seen.session, seen.store, seen.space) == (ctx.session, self._leavers.store, ctx.space())
            if own and not seen.lost and not seen.is_chunk and not any(_begins(seen, one) for one in found):
                found.append(seen)
                if len(found) == _SEARCHED:
                    break
        return found[::-1]

    def costs(self, *, measure: bool) -> CostModel | None:
        """Return what passes cost here, corrected by experience; measured now if ``measure`` and nothing runs."""
        ctx = self._ctx
        if ctx is None or not ctx.adapter.capabilities.prefix:
            return None
        ctx = ctx.for_request()
        if not are_known(ctx):
            if not measure or self._lock.busy:
                return None
            with self._lock.request():
                costs(ctx)
        return costs(ctx)

    def pace(self, spec: str, length: int, known: CostModel) -> float:
        """Return how many times as long as ``known`` says requests of about ``length`` tokens under ``spec`` took."""
        return 1.0 if self._ctx is None else pace(self._ctx.for_request(), parse(spec), length, known.blend_pace)

    def measured(self) -> CostModel:
        """Return what passes cost here, measured if need be; raises ``UnsupportedModel`` where KV are not continued."""
        known = self.costs(measure=True)
        if known is None:
            why = (
                "the session is busy or closed"
                if self._ctx is None
                else self._ctx.adapter.capabilities.why_not("prefix")
            )
            message = f"costs are measured on continued KV: {why}"
            raise UnsupportedModel(message)
        return known

    def _note(
        self,
        ids: tuple[int, ...],
        by: str,
        ctx: Context,
        *,
        prompt: int | None = None,
        lost: str = "",
        said: tuple[str, ...] | None = None,
    ) -> Seen:
        prefix = ctx.adapter.capabilities.prefix
        seen = Seen(
            order=self._past.number(),
            ids=ids,
            prompt=len(ids) if prompt is None else prompt,
            space=ctx.space(),
            store=self._leavers.store,
            session=ctx.session,
            by=by,
            lost=lost or ("" if prefix else ctx.adapter.capabilities.why_not("prefix")),
            said=said,
        )
        self._past.add(seen)
        return seen


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """All that is needed to say why a request missed; holds no session and no tensors, and is not pickled."""

    request: int
    seen: Seen
    past: Past
    codec: Codec
    journal: weakref.ref[Journal]
    reusable: int
    chunks: tuple[tuple[tuple[int, ...], int, int], ...]
    unread: str
    places: bool
    states: bool
    declined: str
    declined_s: float | None

    def __call__(self, result: Result, *, measure: bool) -> Why:
        """Return the misses of ``result``; with ``measure`` costs that are not known yet are measured for it."""
        journal = self.journal()
        known = None if journal is None else journal.costs(measure=measure)
        moment = _pace(result, known) if known else 1.0
        asked = Inquiry(
            seen=self.seen,
            provenance=result.provenance,
            reusable=self.reusable,
            strategy=result.strategy,
            chunks=self.chunks,
            unread=self.unread,
            places=self.places,
            states=self.states,
            declined=self.declined,
            declined_s=None if self.declined_s is None else self.declined_s * moment,
        )
        blends = 1.0 if journal is None or known is None else journal.pace(CHUNKS, asked.length, known)
        known = known and known.scaled(moment)
        misses = priced(Diagnosis(asked, self.past, self.codec.pieces).misses(), asked, known, blends)
        return Why(misses=misses, prompt=asked.length, ttft_s=result.timing.ttft_s)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickle as None: what is past stays in the process that it passed in."""
        return type(None), ()


def _begins(seen: Seen, longer: Seen) -> bool:
    return longer.ids[: len(seen.ids)] == seen.ids


def _pace(result: Result, known: CostModel) -> float:
    """Return how many times longer than expected ``result``'s own rows took: the machine as it was at that moment."""
    n, timing = len(result.prompt_ids), result.timing
    expected = known.run(round(result.compute.rows * n), n)
    took = timing.ttft_s - timing.load_s - timing.select_s
    return took / expected if expected > 0 and took > 0 else 1.0
