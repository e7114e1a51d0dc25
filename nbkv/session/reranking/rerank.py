"""``session.rerank``: one pass over documents, then two short ones over their KV: the query, and a content-free one.

In-context re-ranking (ICR), arXiv 2410.02642: the documents that a query's tokens attend to more than those of ``N/A``
do come first. ``layers="middle"``: arXiv 2602.22591 finds the signal there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from nbkv.context import Context, Request
from nbkv.errors import BadOption, BadPrompt, UnsupportedModel
from nbkv.events import Bus, Ranked, Reused
from nbkv.families.blend.base import Blend
from nbkv.families.prefix.base import Prefix, held
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import Work
from nbkv.result import Chunk, Compute, Provenance, Result
from nbkv.scalars import is_whole, kind_of
from nbkv.session.encoding.chunks import make_chunk, tokenised_chunk
from nbkv.session.reranking.attention import query_attention
from nbkv.session.reranking.calibration import document_scores, remembered, token_scores
from nbkv.session.reranking.layout import NEUTRAL, RankingPrompt, ranking_prompt
from nbkv.session.reranking.ranking import Document, RankFidelity, Ranking
from nbkv.show.units import plural
from nbkv.strategy import Strategy, parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEEDS = ("prefix", "attention", "causal", "per_token")


class _Read(NamedTuple):
    """Documents whose KV are in ``cache``, and from where (``provenance`` of the whole prompt)."""

    cache: GrowingCache
    provenance: NDArray[np.uint8]


@dataclass(eq=False)
class Reranking:
    """One call of ``session.rerank``: its work is counted in ``rows`` (documents and query) and ``select``."""

    ctx: Context
    strategy: Strategy
    query: str
    documents: tuple[Document, ...]
    instruction: str
    layers: range
    calibrate: bool
    rows: Work = field(init=False)
    select: Work = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be ranked, before any work."""
        if not isinstance(self.query, str) or not self.query.strip():
            message = f"the query is {'empty' if isinstance(self.query, str) else kind_of(self.query)} (accepted: text)"
            raise BadPrompt(message)
        if not isinstance(self.strategy, (Prefix, Blend)) and self.strategy.name != "full":
            message = (
                f"documents are not ranked by {self.strategy.spec} (accepted: prefix and full, which are exact, and "
                "strategies that reuse chunks, such as blend)"
            )
            raise BadOption(message)
        self.rows, self.select = self.ctx.work(), self.ctx.work()

    @classmethod
    def of(
        cls,
        ctx: Context,
        strategy: Strategy,
        query: str,
        documents: Iterable[Document],
        *,
        instruction: object,
        layers: object,
        calibrate: object,
    ) -> Reranking:
        """Return the work that a call asks for; raises ``BadPrompt``, ``BadOption``, ``UnsupportedModel``."""
        check_model(ctx)
        if not isinstance(instruction, str) or not isinstance(calibrate, bool):
            given = f"instruction={instruction!r:.60}, calibrate={calibrate!r:.60}"
            message = f"{given} are not accepted: instruction is text, calibrate True or False"
            raise BadOption(message)
        counted = chosen_layers(layers, ctx.adapter.n_layers)
        return cls(ctx, strategy, query, read_documents(documents), instruction, counted, calibrate)

    def run(self, *, fidelity: bool = False) -> Ranking:
        """Return the ranking, with its distance to full's if asked; raises ``BadPrompt`` if documents do not fit."""
        ranking = self._ranking()
        self._tell(ranking)
        return self._measured(ranking) if fidelity else ranking

    def _ranking(self) -> Ranking:
        began, ctx = time.perf_counter(), self.ctx
        chunks = [self._chunk(document, number) for number, document in enumerate(self.documents, 1)]
        asked = ranking_prompt(chunks, self.query, self.instruction, ctx)
        neutral = ranking_prompt(chunks, NEUTRAL, self.instruction, ctx)
        found, known, provenance = self._attention(asked, neutral)
        scored = tuple(token_scores(found, known, span) for span in asked.spans)
        tokens = len(asked.ids) * ctx.adapter.n_layers
        rows, select = (work.token_layers / tokens for work in (self.rows, self.select))
        return Ranking(
            query=self.query,
            documents=self.documents,
            names=tuple(chunk.name for chunk in chunks),
            scores=document_scores(scored),
            token_scores=scored,
            pieces=tuple(ctx.pieces(chunk.token_ids) for chunk in chunks),
            prompt=asked.given,
            strategy=self.strategy.spec,
            model=ctx.adapter.name,
            layers=(self.layers.start, self.layers.stop),
            provenance=provenance,
            compute=Compute(share=rows + select, select=select, rows=rows),
            seconds=time.perf_counter() - began,
            notes=(ctx.adapter.whereabouts, *self._notes(asked)),
        )

    def _measured(self, ranking: Ranking) -> Ranking:
        """Return ``ranking`` with its distance to full's, run for it: uncounted, unheard, and nothing of it kept."""
        quiet = replace(self.ctx, bus=Bus())
        full = replace(self, ctx=quiet, strategy=parse("full")).run()
        return replace(ranking, fidelity=RankFidelity.between(ranking.scores, full.scores))

    def _chunk(self, document: object, number: int) -> Chunk:
        """Return a document as a chunk; text is encoded as one only where chunks are reused."""
        if isinstance(document, Chunk):
            return document
        if isinstance(document, Result):
            return document.chunk("answer")
        if isinstance(self.strategy, Blend):
            return make_chunk(self.ctx, document, f"[{number}]", "auto")
        return tokenised_chunk(self.ctx, document, f"[{number}]", "none")

    def _attention(
        self, asked: RankingPrompt, neutral: RankingPrompt
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.uint8]]:
        """Return what both queries attend to, and where the KV of the first one's prompt came from."""
        with self._reading(asked, self.rows) as read:
            found = self._pass(asked, read.cache, self.rows)
            known = self._calibration(neutral, read) if self.calibrate else None
        return found, known, read.provenance

    def _calibration(self, neutral: RankingPrompt, read: _Read) -> NDArray[np.float64]:
        """Return what the neutral query attends to in the documents: as they were read, or as the strategy has them."""
        blends = isinstance(self.strategy, Blend)

        def measure() -> NDArray[np.float64]:
            if not blends:
                return self._pass(neutral, read.cache, self.select)
            with self._reading(neutral, self.select) as own:
                return self._pass(neutral, own.cache, self.select)

        # what is blended depends on how far an exact prefix reaches
        exact = int((read.provenance == Provenance.PREFIX).sum()) if blends else 0
        about = (self.ctx.space(), self.strategy.spec, neutral.prompt, self.layers, exact)
        return remembered(self.ctx.scratch, about, measure)

    def _reading(self, prompt: RankingPrompt, work: Work) -> AbstractContextManager[_Read]:
        return self._blended(prompt, work) if isinstance(self.strategy, Blend) else self._exactly(prompt, work)

    def _pass(self, prompt: RankingPrompt, cache: GrowingCache, work: Work) -> NDArray[np.float64]:
        return query_attention(self.ctx.adapter, prompt.ids, cache, self.layers, work)

    @contextmanager
    def _exactly(self, prompt: RankingPrompt, work: Work) -> Iterator[_Read]:
        """Within the block the documents' KV are there as the model computes them in this order, also in the store."""
        adapter, ids = self.ctx.adapter, prompt.ids[: prompt.context]
        cache, provenance = adapter.growing(len(prompt.ids)), np.full(len(prompt.ids), Provenance.FRESH, dtype=np.uint8)
        if not isinstance(self.strategy, Prefix):
            adapter.prefill(ids, cache, work=work)
            yield _Read(cache, provenance)
            return
        with held(ids, self.ctx, work) as found:
            for kv in found.pieces:
                cache.write(cache.length, kv)
            if found.matched:
                provenance[: found.matched] = Provenance.PREFIX
                self.ctx.tell(Reused, start=0, stop=found.matched, tier=self.ctx.store.name)
            yield _Read(cache, provenance)

    @contextmanager
    def _blended(self, prompt: RankingPrompt, work: Work) -> Iterator[_Read]:
        """Within the block the documents' KV are there as the strategy makes them for this query.

        Its own prefill ends with the query's rows, which are then run once more to be watched; both are counted.
        """
        request = Request(prompt.prompt, 1, keep=False)
        prefilled = self.strategy.prefill(request, self.ctx)
        work.token_layers += prefilled.rows.token_layers
        self.select.token_layers += prefilled.select.token_layers
        cache = cast("GrowingCache", prefilled.cache)
        cache.truncate(prompt.context)
        try:
            yield _Read(cache, prefilled.provenance)
        finally:
            self.strategy.commit(prefilled, prompt.ids, request, self.ctx)

    def _notes(self, asked: RankingPrompt) -> list[str]:
        notes = list(asked.prompt.notes)
        if not self.strategy.exact:
            notes.append(f"approximate: the documents' KV are those of {self.strategy.spec}")
        windows = [width for width in self.ctx.adapter.capabilities.windows if width is not None]
        narrow = sum(width < len(asked.ids) for width in windows)
        if narrow:
            notes.append(
                f"in {narrow} of {plural(self.ctx.adapter.n_layers, 'layer')}, tokens see the last "
                f"{plural(min(windows), 'token')} only: documents before get no attention there, as from the model"
            )
        return notes

    def _tell(self, ranking: Ranking) -> None:
        tokens = ranking.tokens
        self.ctx.tell(
            Ranked,
            strategy=ranking.strategy,
            documents=len(ranking),
            best=ranking.order[0],
            prompt=tokens.prompt,
            reused=tokens.reused,
            compute_share=ranking.compute.share,
        )


def check_model(ctx: Context) -> None:
    """Raise ``UnsupportedModel`` unless attention of ``ctx``'s model can be watched over cached KV."""
    known = ctx.adapter.capabilities
    for need in NEEDS:
        if not getattr(known, need):
            message = f"rerank cannot serve {ctx.adapter.name}: {known.why_not(need)}"
            raise UnsupportedModel(message)


def chosen_layers(layers: object, n_layers: int) -> range:
    """Return the layers that count: all (None), the ``"middle"`` third, or ``(first, last)``; raises ``BadOption``."""
    if layers is None:
        return range(n_layers)
    if layers == "middle":
        return range(n_layers // 3, max(n_layers // 3 + 1, -(-2 * n_layers // 3)))
    pair: Any = layers
    if isinstance(layers, (tuple, list)) and len(layers) == 2 and all(map(is_whole, layers)):  # noqa: PLR2004
        first, last = pair
        if first < last <= n_layers:
            return range(first, last)
    message = f"layers={layers!r:.60} is not accepted: None (all), 'middle', or (first, last) within 0 to {n_layers}"
    raise BadOption(message)


def read_documents(documents: object) -> tuple[Document, ...]:
    """Return what a caller gave as documents; raises ``BadPrompt``."""
    accepted = "accepted: a list of texts, chunks and Results"
    if isinstance(documents, (str, bytes, Chunk, Result)) or not isinstance(documents, Iterable):
        message = f"documents are {kind_of(documents)} ({accepted})"
        raise BadPrompt(message)
    found = tuple(documents)
    if not found:
        message = f"there are no documents to rank ({accepted})"
        raise BadPrompt(message)
    return found
