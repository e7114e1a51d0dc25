"""Runs one request: strategy, decode loop, events, result; what generate, stream and compare share."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from nbkv.context import Context, Request
from nbkv.events import Finished, Started
from nbkv.inference.by_block import ByBlock
from nbkv.inference.by_canvas import ByCanvas
from nbkv.inference.by_token import ByToken
from nbkv.inference.lesson import learn
from nbkv.inference.loop import AnswerTask, DecodeLoop
from nbkv.models.adapter import ModelAdapter
from nbkv.models.sampling import Sampling, set_aside
from nbkv.prompts.prompt import Prompt
from nbkv.prompts.text_stream import TextStream
from nbkv.result import Compute, Explains, Provenance, Result, Timing
from nbkv.show.units import plural
from nbkv.stopping import Stopped
from nbkv.stores.base import Scratch
from nbkv.strategy import Prefilled, Strategy


@dataclass
class RequestRun:
    """One request under way: iterate ``pieces``, then read ``result`` (set also if it was interrupted or abandoned).

    ``ctx`` is that of the very request, which begins at once. ``after(run, strategy)`` is called when an answer is
    complete, with the strategy that served it, and gives the result with what it adds; ``before`` is what the session's
    scratch held as the request began. ``explains(run, prefilled,
    tokens)`` gives what explains the result's misses, if anybody asks.
    """

    ctx: Context
    strategy: Strategy
    prompt: Prompt
    sampling: Sampling
    keep: bool = True
    after: Callable[[RequestRun, Strategy], Result] | None = None
    explains: Callable[[RequestRun, Prefilled | None, tuple[int, ...]], Explains] | None = None
    result: Result | None = None
    before: Scratch = field(default_factory=Scratch)
    _tokens: list[int] = field(default_factory=list)
    _marks: dict[str, float] = field(default_factory=dict)
    _at_first: int = 0

    def pieces(self) -> Generator[str]:
        """Yield the answer's text as it becomes certain."""
        self._mark("start")
        ctx, request = self._begin(), self._request()
        self.before = Scratch(ctx.scratch)
        ctx.tell(Started, strategy=self.strategy.spec, prompt=len(request.ids))
        text = TextStream(ctx.codec, self.sampling.stop)
        try:
            prefilled = self.strategy.prefill(request, ctx)
        except Stopped:
            self._finish("interrupted", text, None)
            return
        self._mark("prefilled")
        request = replace(request, max_new_tokens=min(request.max_new_tokens, self._room(prefilled)))
        reason = "interrupted"
        try:
            with self.strategy.decoding(prefilled, ctx):
                for piece, why in self._loop(prefilled, request, ctx, text):
                    reason = why or reason
                    yield piece
        except Stopped:
            reason = "interrupted"
        finally:
            if ctx.adapter.fingerprint != ctx.model:  # an adapter was switched between two pieces of a stream
                request = replace(request, keep=False)
                prefilled.notes.append("the model was changed while it answered: nothing of this request was kept")
            self.strategy.commit(prefilled, (*request.ids, *self._tokens), request, ctx)
            self._finish(reason, text, prefilled)
        if rest := text.finish():
            yield rest

    def _loop(
        self, prefilled: Prefilled, request: Request, ctx: Context, text: TextStream
    ) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each token or block; the last one has a reason to finish."""
        task = AnswerTask(self.strategy, prefilled, request, ctx, self.sampling)
        loop = loop_of(ctx.adapter)
        return loop(task, text, self._tokens, lambda: self._mark("token")).pieces()

    def _begin(self) -> Context:
        return self.ctx

    def _request(self) -> Request:
        return Request(self.prompt, min(self.sampling.max_new_tokens, self._room()), keep=self.keep)

    def _room(self, prefilled: Prefilled | None = None) -> int:
        """Return how many tokens of the answer fit behind the prompt and what a strategy added to it."""
        extra = 0 if prefilled is None else prefilled.extra
        return self.ctx.adapter.capabilities.context - len(self.prompt.ids) - extra

    def _finish(self, reason: str, text: TextStream, prefilled: Prefilled | None) -> None:
        self._mark("end")
        n, n_layers = len(self.prompt.ids), self.ctx.adapter.n_layers
        compute, kv_bytes = Compute(), {}
        if prefilled is not None:
            select, rows = (work.token_layers / (n * n_layers) for work in (prefilled.select, prefilled.rows))
            ran = sum(work.token_layers for work in prefilled.decode) - prefilled.decoded * n_layers
            compute = Compute(share=select + rows, select=select, rows=rows, decode=max(0, ran) / (n * n_layers))
            cache = prefilled.cache
            held = cache.held_bytes() + self.ctx.adapter.capabilities.state_bytes
            kv_bytes = {self.ctx.store.name if prefilled.lease else "working": held}
            if (restorable := cache.restorable_bytes()) is not None:
                kv_bytes["restorable"] = restorable
            if peak := cache.peak_bytes():
                kv_bytes["peak"] = peak
        fresh = np.full(n, Provenance.FRESH, dtype=np.uint8)
        served = (prefilled and prefilled.by) or self.strategy
        notes = self._notes(prefilled)
        self.result = Result(
            text=text.text,
            token_ids=tuple(self._tokens),
            prompt_ids=self.prompt.ids,
            finish_reason=reason,
            strategy=self.strategy.spec,
            model=self.ctx.adapter.name,
            fingerprint=self.ctx.model,
            timing=self._timing(prefilled),
            provenance=fresh if prefilled is None else prefilled.provenance,
            kept=np.ones(n, dtype=np.bool_) if prefilled is None or prefilled.kept is None else prefilled.kept,
            deviation=None if prefilled is None else prefilled.deviation,
            compute=compute,
            kv_bytes=kv_bytes,
            notes=notes,
            prompt_pieces=self.ctx.codec.pieces(self.prompt.ids),
            chunks=tuple((chunk.name, start, stop) for chunk, start, stop in self.prompt.chunks),
            lineage="exact" if served.exact else f"approx:{served.name}",
            decoding=None if prefilled is None or not prefilled.figures else prefilled.figures,
            markdown=self.prompt.chat,
            said_before=tuple(note for note in notes if note in self.ctx.said),
            explain=None if self.explains is None else self.explains(self, prefilled, tuple(self._tokens)),
        )
        if self.keep:
            self.ctx.said.update(notes)
        if prefilled is not None and reason != "interrupted":
            learn(self.ctx, served, prefilled, self.result.timing)
        if self.after is not None and reason != "interrupted":
            self.result = self.after(self, served)
        self.ctx.tell(Finished, result=summary(self.result))

    def _notes(self, prefilled: Prefilled | None) -> tuple[str, ...]:
        notes = [self.ctx.adapter.whereabouts, *self.ctx.notes, *self.prompt.notes]
        room = self._room(prefilled)
        if room < self.sampling.max_new_tokens:
            notes.append(f"answer limited to {plural(room, 'token')} by the model's context")
        if prefilled is None:
            notes.append("interrupted during prefill: nothing of this prompt was kept")
        else:
            notes.extend(prefilled.notes)
        if self.sampling.temperature == 0 and (self.sampling.top_p or self.sampling.top_k):
            notes.append("greedy: top_p and top_k play no part at temperature 0")
        if aside := set_aside(self.sampling, getattr(self.ctx.adapter.model, "generation_config", None)):
            notes.append(f"set aside of the model's generation_config: {', '.join(aside)}")
        return tuple(notes)

    def _timing(self, prefilled: Prefilled | None) -> Timing:
        start, end = self._marks["start"], self._marks["end"]
        first, last = self._marks.get("first", end), self._marks.get("token", end)
        decode_s = last - first if self._tokens else 0.0
        later = len(self._tokens) - self._at_first
        load_s, select_s = (prefilled.load_s, prefilled.select_s) if prefilled else (0.0, 0.0)
        return Timing(
            ttft_s=first - start,
            load_s=load_s,
            select_s=select_s,
            prefill_s=max(0.0, self._marks.get("prefilled", end) - start - load_s - select_s),
            decode_s=decode_s,
            total_s=end - start,
            tpot_s=decode_s / later if later else 0.0,
        )

    def _mark(self, name: str) -> None:
        self._marks[name] = time.perf_counter()
        if name == "token":
            self._at_first = self._at_first or len(self._tokens)
            self._marks.setdefault("first", self._marks[name])


class LaterRun(RequestRun):
    """A request that begins when somebody iterates it: by then the model may have another adapter."""

    def _begin(self) -> Context:
        self.ctx = self.ctx.for_request(self.ctx.request)
        return self.ctx


def summary(result: Result) -> dict[str, object]:
    """Return the figures of ``result``: counts, times and words, and spans of tokens, but no token lists."""
    tokens, timing = result.tokens, result.timing
    return {
        "strategy": result.strategy,
        "prompt": tokens.prompt,
        "reused": tokens.reused,
        "recomputed": tokens.recomputed,
        "fresh": tokens.fresh,
        "hit_rate": result.hit_rate,
        "compute_share": result.compute.share,
        "ttft_s": timing.ttft_s,
        "tpot_s": timing.tpot_s,
        "total_s": timing.total_s,
        "generated": len(result.token_ids),
        "finish_reason": result.finish_reason,
        "exact": result.lineage == "exact",
        **{name: getattr(result.fidelity, name, None) for name in ("kl", "kl_max", "top1", "diverges_at", "floor")},
        "notes": "; ".join(result.notes),
        "provenance": result.spans,
        "chunks": [{"name": name, "start": start, "stop": stop} for name, start, stop in result.chunks],
        "dropped": result.dropped,
    }


def loop_of(adapter: ModelAdapter) -> type[DecodeLoop]:
    """Return how answers of ``adapter``'s model are decoded."""
    if adapter.canvas is not None:
        return ByCanvas
    return ByToken if adapter.recipe is None else ByBlock
