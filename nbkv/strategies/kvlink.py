"""KVLink: trained link tokens behind each chunk join chunks that never saw each other (arXiv 2502.16002)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, BadPrompt, UnsupportedModel
from nbkv.events import Reused
from nbkv.families.blend.assemble import assemble
from nbkv.families.blend.base import provenance
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.fallback import in_full
from nbkv.families.options import check_count, whole_numbers
from nbkv.models.adapter import ModelAdapter
from nbkv.models.input_embeddings import embeddings_work, soft
from nbkv.models.link_tokens import Links, beside, read_links
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk
from nbkv.show.units import plural
from nbkv.strategy import Prefilled, Strategy
from nbkv.timing import timed

_SLOTS = 40  # of the published checkpoints
_ANY = 0  # the id below a soft row: its embedding is given
_MARKS = 2


@dataclass(kw_only=True, repr=False)
class KVLink(Strategy):
    """Reuse every chunk as it was encoded, alone; run link tokens behind each, which see all before them.

    Link tokens are rows of the working cache at positions of their own, behind the chunk: what follows moves on.
    They are no tokens of the prompt: counts and provenance leave them out, ``compute`` counts what running them took,
    a note says how many there were. The slot, the number of the chunk in the prompt, decides which ones they are; an
    answer used as a chunk is text here. No KV is kept.

    ``weights`` is a file of link embeddings (notebooks/train_links.ipynb makes one); without it, one that lies beside
    the model's own weights. ``first_id`` is for checkpoints whose link tokens are ids of their vocabulary, ``links``
    a chunk from that one on, with the ``marks`` before the first chunk and behind the last one's links (none: ``()``).
    The defaults are the published layout, ``kvlink(first_id=128011)``; its chunks are encoded bare (``sink="none"``).
    """

    name: ClassVar[str] = "kvlink"
    family: ClassVar[str] = "link"
    paper: ClassVar[str] = "KVLink, arXiv 2502.16002"
    summary: ClassVar[str] = "run trained link tokens behind each chunk, reuse the chunks as they are"
    exact: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("prefix", "relocation", "causal")
    contract_exempt: ClassVar[dict[str, str]] = {
        "test_one_first_chunk_behind_bos_equals_prefix": "link tokens follow also a chunk that begins the prompt",
    }

    weights: str = ""
    first_id: int | None = None
    links: int = 5
    marks: tuple[int, ...] = (128254, 128255)

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for both sources at once, and for ids and counts out of range."""
        self.weights = str(self.weights)
        check_count(self, "links", least=1)
        if self.first_id is not None:
            check_count(self, "first_id")
            if self.weights:
                message = "kvlink takes weights (a file of link embeddings) or first_id (ids of the model's), not both"
                raise BadOption(message)
        marks = whole_numbers(self.marks)
        if marks is None or len(marks) not in {0, _MARKS}:
            message = "marks takes two token ids, such as (128254, 128255), or none: ()"
            raise BadOption(message)
        self.marks = marks

    def check(self, adapter: ModelAdapter) -> None:
        """Refuse a model for which there are no link tokens, or none that fit."""
        super().check(adapter)
        if self.first_id is not None:
            self._check_ids(adapter, self.first_id)
            return
        embedding: Any = adapter.model.get_input_embeddings()
        hidden, given = embedding.weight.shape[-1], self._read(adapter).vectors.shape
        if given[-1] != hidden:
            message = (
                f"link tokens of shape {list(given)} do not fit {adapter.name}, whose embeddings have {hidden} values "
                "(accepted: [slots, links, hidden], trained on this very model)"
            )
            raise UnsupportedModel(message)
        if self.links not in {type(self).links, given[1]}:
            has = plural(given[1], "link token")
            message = f"links={self.links} is not accepted: the file has {has} a chunk (leave it out)"
            raise BadOption(message)
        if not embeddings_work(adapter):
            message = (
                f"kvlink cannot serve {adapter.name}: its layers look at token ids themselves, which link tokens of "
                "their own do not have (first_id, full and prefix work)"
            )
            raise UnsupportedModel(message)

    def at_full_budget(self) -> Strategy | None:
        """Return None: with link tokens no setting is the full computation."""
        return None

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Place the chunks, then run the link tokens and all rows without K/V in one pass."""
        links = None if self.first_id is not None else self._read(ctx.adapter)
        plan = self._plan(request.prompt, ctx.adapter, links)
        if len(plan.ids) > ctx.adapter.capabilities.stable_context:
            return in_full(self, request, ctx, "no chunk reuse")
        clock = timed()
        wide = Request(Prompt(plan.ids, plan.chunks), request.max_new_tokens)
        partial = assemble(wide, ctx, upto=plan.chunks[0][1] - plan.opened if plan.chunks else None)
        load_s = clock()
        for _, span, _ in partial.placed:
            start = int(np.searchsorted(plan.where, span.start))
            ctx.tell(Reused, start=start, stop=start + span.length, tier=ctx.store.name)
        with closing(partial.placement), _given(ctx.adapter, partial, plan, links):
            logits = partial.finish(partial.reused[:0])
        return Prefilled(
            cache=partial.cache,
            logits=logits,
            provenance=provenance(partial, partial.reused[:0])[plan.where],
            rows=partial.rows_work,
            load_s=load_s,
            notes=[*partial.notes, *self._notes(plan, partial, links, ctx)],
            extra=len(plan.added),
            places=plan.where,
        )

    def _read(self, adapter: ModelAdapter) -> Links:
        path = self.weights or beside(getattr(adapter.model, "name_or_path", ""))
        if not path:
            message = (
                f"kvlink has no link tokens for {adapter.name}: give kvlink(weights='links.safetensors'), which "
                "notebooks/train_links.ipynb trains, or first_id=128011 for a KVLink checkpoint (full and prefix work)"
            )
            raise UnsupportedModel(message)
        return read_links(path)

    def _check_ids(self, adapter: ModelAdapter, first_id: int) -> None:
        rows, last = adapter.config.vocab_size, max(first_id + _SLOTS * self.links - 1, *self.marks, 0)
        if last >= rows:
            message = (
                f"{adapter.name} is no KVLink checkpoint of this layout: its vocabulary has {rows} ids, link tokens "
                f"from {first_id} on and marks {self.marks} go up to {last} (give first_id, links and marks)"
            )
            raise UnsupportedModel(message)

    def _plan(self, prompt: Prompt, adapter: ModelAdapter, links: Links | None) -> _LinkedPrompt:
        chunks = [place for place in prompt.chunks if place[0].lineage == "canonical"]
        slots = _SLOTS if links is None else links.slots
        if len(chunks) > slots:
            message = f"{len(chunks)} chunks are too many: there are link tokens for {slots} in a prompt"
            raise BadPrompt(message)
        if links is None:
            assert self.first_id is not None  # noqa: S101
            firsts = range(self.first_id, self.first_id + len(chunks) * self.links, self.links)
            plan = _spread(prompt.ids, chunks, [range(at, at + self.links) for at in firsts], self.marks)
        else:
            plan = _spread(prompt.ids, chunks, [(_ANY,) * links.vectors.shape[1]] * len(chunks), ())
        if len(plan.ids) >= adapter.capabilities.context:
            message = (
                f"{plural(len(prompt.ids), 'token')} and {plural(len(plan.added), 'link token')} are too many: this "
                f"model's context is {adapter.capabilities.context}, one of them for the answer"
            )
            raise BadPrompt(message)
        return plan

    def _notes(self, plan: _LinkedPrompt, partial: PartialPrefill, links: Links | None, ctx: Context) -> list[str]:
        notes, n = [], len(plan.chunks)
        if n:
            marks = f" and {plural(_MARKS, 'mark')}" if plan.opened else ""
            tokens = len(plan.added) - _MARKS * plan.opened
            notes.append(f"ran {plural(tokens, 'link token')}{marks} for {plural(n, 'chunk')}")
        if sum(span.length for _, span, _ in partial.placed) < sum(len(chunk) for chunk, _, _ in plan.chunks):
            notes.append("chunks that the store could not hold were run as text, and saw what stands before them")
        if links is None and any(chunk.sink for chunk, _, _ in plan.chunks):
            notes.append("KVLink checkpoints were trained on chunks encoded bare: make them with sink='none'")
        if links is not None and links.trained_on not in {"", ctx.model}:
            notes.append("the link tokens were trained on other weights than these, or in another dtype")
        return notes


@dataclass(frozen=True, eq=False)
class _LinkedPrompt:
    """A prompt with its link tokens between: ``where`` ``[n_prompt]`` its own tokens stand, ``added`` the others.

    ``chunks`` with their spans there; ``opened`` is 1 if a mark stands before the first of them, else 0.
    """

    ids: tuple[int, ...]
    chunks: tuple[tuple[Chunk, int, int], ...]
    where: np.ndarray
    added: list[int]
    opened: int


def _spread(
    ids: Sequence[int],
    chunks: Sequence[tuple[Chunk, int, int]],
    links: Sequence[Sequence[int]],
    marks: Sequence[int],
) -> _LinkedPrompt:
    """Return ``ids`` with ``links[i]`` behind ``chunks[i]``, and ``marks`` around them all."""
    wide: list[int] = []
    where: list[int] = []
    spans, done = [], 0
    for number, (chunk, start, stop) in enumerate(chunks):
        where += range(len(wide), len(wide) + start - done)
        wide += ids[done:start]
        wide += marks[:1] if number == 0 else ()
        spans.append((chunk, len(wide), len(wide) + stop - start))
        where += range(len(wide), len(wide) + stop - start)
        wide += ids[start:stop]
        wide += links[number]
        done = stop
    wide += marks[1:] if chunks else ()
    where += range(len(wide), len(wide) + len(ids) - done)
    wide += ids[done:]
    added = sorted(set(range(len(wide))) - set(where))
    return _LinkedPrompt(tuple(wide), tuple(spans), np.array(where), added, int(bool(chunks and marks)))


def _given(
    adapter: ModelAdapter, partial: PartialPrefill, plan: _LinkedPrompt, links: Links | None
) -> AbstractContextManager[None]:
    """Return what gives link tokens without ids their embeddings in the pass over all rows without KV."""
    if links is None or not plan.added:
        return nullcontext()
    rows = torch.cat([partial.fresh, partial.last]).unique()
    at = torch.isin(rows, torch.tensor(plan.added, device=rows.device)).nonzero().flatten()
    return soft(adapter.model, at, links.vectors[: len(plan.chunks)].flatten(0, 1))
