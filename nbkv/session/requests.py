"""Requests to a loaded model: an answer, its stream, a batch of answers, a conversation, a chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from nbkv.errors import BadOption
from nbkv.families.search.rewards import Reward
from nbkv.inference.run import LaterRun, RequestRun
from nbkv.misses import Why
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk, Result
from nbkv.scalars import is_whole
from nbkv.session.arguments import (
    RequestArguments,
    built_prompt,
    chosen_strategy,
    none_earlier,
    spells_out_sampling,
    wanted_sampling,
)
from nbkv.session.batches.batch import BatchJob
from nbkv.session.batches.results import BatchResults
from nbkv.session.chat import Chat
from nbkv.session.conversation.turn import Content
from nbkv.session.encoding.chunks import check_name, make_chunk
from nbkv.session.reranking import layout
from nbkv.session.reranking.ranking import Document, Ranking
from nbkv.session.reranking.rerank import Reranking
from nbkv.session.resources import Resources
from nbkv.session.search.job import SearchJob
from nbkv.session.search.results import SearchResult
from nbkv.session.search.search_options import spells_out_search
from nbkv.session.stream import Stream
from nbkv.stores.base import Keeping
from nbkv.stores.spec import parse_seconds
from nbkv.strategy import Strategy


class Requests(Resources):
    """What one model can be asked with its store and strategy, one request at a time."""

    @spells_out_sampling
    def generate(
        self,
        prompt: PromptLike,
        *,
        strategy: str | Strategy | None = None,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        order: str | None = None,
        force: bool = False,
        fidelity: bool = False,
        keep: bool = True,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Result:
        """Run ``prompt`` (text, a list of parts, or messages) and return the answer with its figures.

        ``options``: ``max_new_tokens`` (64), ``temperature`` (0: greedy), ``seed``, ``top_p``, ``top_k``,
        ``repetition_penalty``, ``logits_processor``, ``stopping_criteria``; for block-diffusion models ``unmask``, such
        as ``"dynamic(threshold=0.9)"``, ``"static(steps=4)"``, ``"entropy(bound=0.1)"``, ``"sequential"``: which masked
        tokens a pass fills. ``match="auto"`` also takes this session's chunks for given where they stand in plain text
        with all of their own token ids (at its borders text may be tokenised differently), and runs of what was asked
        and answered before, which chunk strategies move to where they stand now (``"earlier"``: these runs alone); a
        prompt in which nothing is to be moved is then exact under such a strategy too, and kept. ``order="reuse"``:
        chunks
        that stand together may be put in any order, and what comes twice is left out, so that stored KV reach further;
        a note says how they stand. For messages:
        ``template_kwargs`` (a dict) go to the chat template, such as ``enable_thinking`` and ``tools``, and with
        ``continue_final_message`` the answer goes on with the last message. ``force`` runs a strategy that failed its
        self-check. ``fidelity`` measures KL and top-1 agreement against full on this prompt, after the answer and not
        counted in its timing. ``keep=False`` leaves the store as it was found, so that requests that are compared with
        each other all begin alike.
        Ctrl-C raises ``KeyboardInterrupt`` whose ``result`` is what there was; after ``stop()`` that result is
        returned. Raises ``BadPrompt``, ``BadOption``, ``UnknownName``, ``UnsupportedModel``, ``OutOfMemory``.
        """
        asked = RequestArguments(strategy, stop, match, order, force, fidelity, keep)
        run = self._run(RequestRun, prompt, options, asked)
        return Stream(run, self._lock, self._remember).exhaust()

    @spells_out_sampling
    def stream(
        self,
        prompt: PromptLike,
        *,
        strategy: str | Strategy | None = None,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        order: str | None = None,
        force: bool = False,
        fidelity: bool = False,
        keep: bool = True,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Stream:
        """Run ``prompt`` like ``generate`` and give the answer's text piece by piece; ``.result`` at the end."""
        asked = RequestArguments(strategy, stop, match, order, force, fidelity, keep)
        run = self._run(LaterRun, prompt, options, asked)
        return Stream(run, self._lock, self._remember)

    @spells_out_sampling
    def generate_batch(
        self,
        prompts: Iterable[PromptLike],
        *,
        strategy: str | Strategy = "batch",
        schedule: str | None = None,
        order: str | None = None,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        force: bool = False,
        progress: bool = True,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> BatchResults:
        """Run many ``prompts`` (a list, a column of a table, any iterable) and return their results in order.

        ``batch`` plans them as a whole: what prompts share is computed and kept once, and their answers are decoded
        together; another ``strategy`` runs them one by one. ``schedule="hits(window=32, wave=8, patience=4)"`` serves a
        stream by hit rate, of ``window`` waiting requests ``wave`` at a time, none passed over more than ``patience``
        times. ``order="reuse"`` is that of ``generate``, for all prompts together, as are the other options; prompt i
        is sampled with ``seed + i``. A prompt that fails keeps no other from its result: see ``BatchResults.errors``.
        Ctrl-C raises ``KeyboardInterrupt`` whose ``result`` has what there was; after ``stop()`` that is returned.
        """
        ctx, asked = self._open().for_request(), RequestArguments(strategy, stop, match, order, force)
        known = (self.chunks, self._journal.earlier)
        job = BatchJob.of(ctx, asked, options, known, schedule, numbers=self._count, progress=progress)
        try:
            return job.run(prompts, self._lock)
        finally:
            self.last = job.results
            self._answers.extend(result for result in job.results.results if result is not None)

    def why(self, request: int) -> Why | None:
        """Return why tokens of one of the newest requests were not reused, by costs known already; None for others.

        ``request`` is its number in this session. Raises ``BadOption`` for anything but a whole number >= 1.
        """
        if not is_whole(request, 1):
            known = [str(result.explain.request) for result in tuple(self._answers) if result.explain is not None]
            accepted = (
                f"the number of a request, a whole number >= 1 (explained here: {', '.join(known) or 'none yet'})"
            )
            message = f"request={request!r:.60} is not accepted: {accepted}"
            raise BadOption(message)
        for result in tuple(self._answers):
            if result.explain is not None and result.explain.request == request:
                return result.explain(result, measure=False)
        return None

    def rerank(
        self,
        query: str,
        chunks: Iterable[Document],
        *,
        strategy: str | Strategy = "prefix",
        layers: str | tuple[int, int] | None = None,
        calibrate: bool = True,
        instruction: str = layout.ANSWER,
        fidelity: bool = False,
    ) -> Ranking:
        """Rank ``chunks`` (text, chunks, Results) by what the query's tokens attend to in them: docs/rerank.md.

        Their KV are computed once, in the order given; then a query costs its own tokens. ``strategy``: ``prefix`` is
        exact, ``blend`` and others reuse chunks wherever they stand. ``layers``: None (all), ``"middle"``, or ``(first,
        last)``. ``calibrate`` subtracts what ``N/A`` attends to. ``instruction`` stands before the query. ``fidelity``
        measures the distance to full's ranking. Raises ``BadPrompt``, ``BadOption``, ``UnsupportedModel``.
        """
        ctx = self._open().for_request(next(self._count))
        self._fidelity.check(fidelity)
        options: dict[str, Any] = {"instruction": instruction, "layers": layers, "calibrate": calibrate}
        work = Reranking.of(ctx, chosen_strategy(strategy, ctx), query, chunks, **options)
        with self._lock.request():
            return work.run(fidelity=fidelity)

    @spells_out_sampling
    @spells_out_search
    def search(
        self,
        prompt: PromptLike,
        *,
        reward: Reward,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> SearchResult:
        """Search for the answer to ``prompt`` that ``reward`` values most, step by step, over a tree of branches.

        ``reward(texts)`` gives a number for each answer so far. ``method`` is ``"ets"``, ``"rebase"``, ``"beam"`` or
        ``"dvts"``, with options in brackets; the others are those of ``SearchOptions`` and of ``generate``. K/V of the
        tree are held once. A branch whose reward fails ends: see ``SearchResult.errors``. Ctrl-C raises
        ``KeyboardInterrupt`` whose ``result`` has what there was; after ``stop()`` that is returned.
        """
        ctx = self._open().for_request(next(self._count))
        job = SearchJob.of(ctx, prompt, reward, options, chunks=self.chunks, strategy=self._strategy)
        try:
            return job.run(self._lock)
        finally:
            self.last = job.result

    def chat(self, system: Content | None = None, *, template_kwargs: dict[str, Any] | None = None) -> Chat:
        """Return a conversation that keeps every token id verbatim; ``chat.send(text)`` gives a Result.

        ``template_kwargs`` go to the chat template with every turn. Raises ``BadPrompt`` and ``BadOption``.
        """
        self._open()
        return Chat(self, system, template_kwargs)

    def chunk(self, text: str, *, name: str | None = None, sink: str = "auto") -> Chunk:
        """Encode ``text`` once and keep its KV in the store; the same name with new text replaces the chunk.

        ``sink``: what it is encoded behind; the sink's KV is dropped at use. ``auto`` is the tokenizer's BOS (else one
        dummy token), or a primer where a measurement of this model asks for one; ``bos``, ``none``, ``dummy`` (four
        dummy tokens), ``primer`` (BOS and neutral text) and ``context`` (what a chat prompt begins with and two neutral
        passages) insist. Raises ``BadPrompt`` and ``BadOption``.
        """
        ctx = self._open().for_request()
        check_name(name)
        with self._lock.request():
            name = name or next(free for n in count(1) if (free := f"chunk{n}") not in self.chunks)
            self._journal.encoding(name)
            made = make_chunk(ctx, text, name, sink)
            self._journal.chunk(made, ctx)
            known = self.chunks.get(name)
            if known == made and known.notes == made.notes:
                return known
            if known is not None and known != made:
                made = replace(made, notes=(*made.notes, f"replaces another chunk named {name!r}"))
            self.chunks[name] = made
        return made

    def keep(self, what: Chunk | PromptLike, *, pinned: bool = True, ttl: str | float = 0, priority: int = 0) -> int:
        """Have the KV of a chunk, or of what a prompt begins with, be kept; return how many tokens that reached.

        ``pinned`` KV is not evicted, ``pinned=False`` undoes it. ``priority`` comes before any policy: the lowest goes
        first, 0 is usual (a chat's system text has 1, an answer with thinking -1). On disk, Redis and elsewhere ``ttl``
        (seconds, or text such as ``"7d"``) limits its time. Raises ``BadPrompt`` and ``BadOption``.
        """
        ctx = self._open().for_request()
        seconds = parse_seconds(ttl) if isinstance(ttl, str) else float(ttl)
        path = (*what.sink, *what.token_ids) if isinstance(what, Chunk) else self._prompt(what).ids
        with self._lock.request():
            return ctx.store.keep(ctx.space(), path, Keeping(pinned, seconds, priority))

    def _run(
        self, begun: type[RequestRun], prompt: PromptLike, options: dict[str, Any], asked: RequestArguments
    ) -> RequestRun:
        if not isinstance(asked.keep, bool):
            message = f"keep={asked.keep!r:.60} is not accepted: True keeps what is computed, False the store as it was"
            raise BadOption(message)
        ctx = self._open().for_request()
        self._fidelity.check(asked.fidelity)
        wanted = wanted_sampling(asked.stop, options, ctx)
        strategy = self._strategy if asked.strategy is None else asked.strategy
        chosen = chosen_strategy(strategy, ctx, force=asked.force)
        earlier = self._journal.earlier if chosen.places else none_earlier
        built = built_prompt(prompt, asked.match, self.chunks, ctx, options, order=asked.order, earlier=earlier)
        number = next(self._count)  # of requests that are run, each its own, from whatever thread
        after = self._fidelity.after(number, asked.fidelity)
        return begun(
            replace(ctx, request=number),
            chosen,
            built,
            wanted,
            keep=asked.keep,
            after=after,
            explains=self._journal.request,
        )

    def _remember(self, result: Result) -> None:
        self.last = result
        self._answers.append(result)
