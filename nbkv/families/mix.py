"""A prompt on the bench: what of it has KV already, in one working cache, and the passes that may be run over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from nbkv import selection
from nbkv.families.prefix import encode
from nbkv.kv import KV, Span
from nbkv.models.adapter import Front, ModelAdapter, Work
from nbkv.models.attention import OnAttention, watched
from nbkv.models.cache import GrowingCache
from nbkv.result import Chunk
from nbkv.strategy import Context, Request

_ENDS = (".", "!", "?", "\n", "。", "!", "?")


class Placed(NamedTuple):
    """A chunk and the rows its KV was put at; ``encoded``: during this request, so that they count as fresh."""

    chunk: Chunk
    span: Span
    encoded: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """KV that a strategy has of a span, made with its first token at position ``base``; without ``kv``, the store's."""

    kv: KV | None = None
    base: int = 0


@dataclass(eq=False)
class Mix:
    """One prompt of ``length`` tokens whose KV comes from several places; all rows are absolute positions.

    ``prefix`` first tokens are an exact prefix (``known`` would be, but for the last row); ``reused`` ``[R]`` are rows
    ``placed`` from chunks; ``fresh`` ``[F]`` are rows without KV; ``last`` ``[1]`` is the prompt's last row, which
    always runs. ``cache`` holds all of it. ``held`` is what the strategy supplied, by first position;
    ``found`` is what it learned on the way and needs again.
    """

    adapter: ModelAdapter
    ids: torch.Tensor
    cache: GrowingCache
    prefix: int
    known: int
    placed: list[Placed]
    rows_work: Work
    select_work: Work
    pieces: Callable[[Sequence[int]], tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    held: Mapping[int, Held] = field(default_factory=dict)
    found: dict[str, torch.Tensor] = field(default_factory=dict)
    _rows: torch.Tensor | None = None
    _front: Front | None = None

    def __post_init__(self) -> None:
        """Sort all rows into those with and without KV."""
        held = torch.zeros(self.length, dtype=torch.bool)
        for _, span, _ in self.placed:
            held[span.start : span.stop] = True
        self.reused = held.nonzero().flatten().to(self.adapter.device)
        held[: self.prefix] = True
        self.fresh = (~held).nonzero().flatten().to(self.adapter.device)
        self.last = torch.tensor([self.length - 1], device=self.adapter.device)

    @property
    def length(self) -> int:
        """Return the number of prompt tokens."""
        return len(self.ids)

    @property
    def question(self) -> torch.Tensor:
        """Return the rows behind the last reused one, or the last row of all if nothing stands there."""
        stop = self.placed[-1].span.stop if self.placed else self.prefix
        behind = self.fresh[self.fresh >= stop]
        return behind if len(behind) else self.last

    def sentences(self, longest: int) -> list[Span]:
        """Return the reused rows as sentences: cut behind marks of an end, at chunk borders, after ``longest`` rows."""
        spans = []
        for _, span, _ in self.placed:
            start = span.start
            texts = self.pieces(self.ids[span.start : span.stop].tolist())
            for at, text in enumerate(texts, span.start):
                ended = text.rstrip(" \t").endswith(_ENDS) or at + 1 == span.stop
                if ended or at + 1 - start >= longest:
                    spans.append(Span(start, at + 1))
                    start = at + 1
        return spans

    def room(self, budget: float) -> int:
        """Return how many rows ``budget``, a share of the reused ones, allows."""
        return selection.count(budget, len(self.reused))

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return self.adapter.n_layers

    # passes

    def begin(self, rows: torch.Tensor) -> torch.Tensor:
        """Take ``rows`` through the layers from the first one on, with all rows without KV; return them all."""
        self._rows, self._front = self._with_fresh(rows), None
        return self._rows

    def advance(self, stop: int, *, select: bool) -> torch.Tensor:
        """Run the rows under way up to layer ``stop``, counted as selection or not; return them."""
        assert self._rows is not None  # noqa: S101
        work = self.select_work if select else self.rows_work
        front = self.adapter.advance(
            self.ids[self._rows], self._rows, self.cache, stop=stop, since=self._front, work=work
        )
        # layers that use other layers' K/V are given it within one pass: the next one has to begin anew
        self._front = None if self.adapter.capabilities.shared_kv else front
        return self._rows

    def narrow(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only, and those without KV."""
        assert self._rows is not None  # noqa: S101
        wanted = self._with_fresh(rows)
        kept = torch.isin(self._rows, wanted)
        self._rows = self._rows[kept]
        self._front = None if self._front is None else self._front.keep(kept.nonzero().flatten())

    def finish(self, rows: torch.Tensor) -> torch.Tensor:
        """Run ``rows`` and those without KV through all layers left; return the logits ``[V]`` after the last token."""
        if self._rows is None:
            self.begin(rows)
        else:
            self.narrow(rows)
        assert self._rows is not None  # noqa: S101
        some = self.ids[self._rows]
        return self.adapter.recompute(some, self._rows, self.cache, since=self._front, work=self.rows_work)[-1]

    def deviation(self, layer: int, side: str = "kv", power: int = 2) -> torch.Tensor:
        """Run the rows under way through ``layer``, counted as selection; return how far their K/V are from the cached.

        Float32 ``[n]`` by position: differences to the ``power`` summed over heads and dimensions, of keys (``k``),
        values (``v``) or both; 0 for rows that did not run.
        """
        distance = torch.zeros(self.length, device=self.ids.device)
        rows = self._rows
        assert rows is not None  # noqa: S101

        def compare(old: tuple[torch.Tensor, torch.Tensor], new: tuple[torch.Tensor, torch.Tensor]) -> None:
            for name, before, now in zip("kv", old, new, strict=True):
                if name in side:
                    powers = (before.float() - now.float()).abs().pow(power).sum(dim=(0, 2))
                    distance.index_add_(0, rows, powers.to(distance.device))

        with self.cache.watching(layer, compare):
            self.advance(layer + 1, select=True)
        return distance

    def watching(self, on_attention: OnAttention, of: torch.Tensor) -> AbstractContextManager[None]:
        """Within the block ``on_attention`` is shown, layer by layer, what rows ``of`` attend to as they are run.

        Its ``rows`` are indices into the rows under way.
        """
        assert self._rows is not None  # noqa: S101
        which = torch.isin(self._rows, of).nonzero().flatten()
        return watched(self.adapter.config, which, on_attention)

    def scout(self, on_attention: OnAttention, of: torch.Tensor | None = None, stop: int | None = None) -> None:
        """Run the rows without KV over what is placed, through the layers before ``stop`` (None: all).

        ``on_attention`` is shown what rows ``of`` (None: the question) attend to. Counted as selection; what the pass
        writes is written again by ``finish``.
        """
        self.begin(self.last)
        assert self._rows is not None  # noqa: S101
        rows = self._rows
        with self.watching(on_attention, self.question if of is None else of):
            if stop is None or stop >= self.n_layers:
                self.adapter.recompute(self.ids[rows], rows, self.cache, work=self.select_work)
            else:
                self.advance(stop, select=True)
        self._rows = self._front = None

    def _with_fresh(self, rows: torch.Tensor) -> torch.Tensor:
        together: torch.Tensor = torch.cat([rows, self.fresh, self.last]).unique()
        return together


def lay(request: Request, ctx: Context, held: Mapping[int, Held] | None = None, *, upto: int | None = None) -> Mix:
    """Return the prompt with everything placed that the store has: an exact prefix, then chunks at their positions.

    The prefix is taken from the first ``upto`` tokens only (None: from all but the last). Where ``held`` has KV for the
    chunk that begins at a position, that is placed. A canonical chunk that has left the store is encoded again, and a
    note says so; of an answer used as a chunk only what the store still has is placed.
    """
    ids, work = request.ids, ctx.work()
    notes: list[str] = []
    held = held or {}
    own = {start: each for start, each in held.items() if each.kv is not None}
    stored = [each for each in request.prompt.chunks if each[1] not in own]
    encoded = _encode_missing(stored, ctx.store.holds(ctx.space(), ids[:upto]), ctx, work, notes)
    cache = GrowingCache(len(ids) + request.max_new_tokens)
    known = ctx.store.holds(ctx.space(), ids[:upto])
    prefix = min(known, len(ids) - 1)
    if prefix:
        with ctx.store.reading(ctx.space(), ids[:prefix]) as pieces:
            for at, kv in pieces:
                cache.write(at, kv)
    placed = []
    for chunk, start, stop in request.prompt.chunks:
        if stop <= prefix:
            continue
        one = own.get(start)
        span = _place(chunk, start, prefix, ctx, cache) if one is None else _put(one, start, prefix, ctx, cache)
        if span.length:
            placed.append(Placed(chunk, span, encoded=one is None and chunk in encoded))
    cache.cover(len(ids))
    works = work, ctx.work()
    return Mix(ctx.adapter, ctx.adapter.tensor(ids), cache, prefix, known, placed, *works, ctx.pieces, notes, held)


def _encode_missing(
    chunks: Sequence[tuple[Chunk, int, int]], known: int, ctx: Context, work: Work, notes: list[str]
) -> list[Chunk]:
    encoded = []
    for chunk, _, stop in chunks:
        path = (*chunk.sink, *chunk.token_ids)
        if chunk.lineage == "canonical" and stop > known and ctx.store.holds(ctx.space(), path) < len(path):
            encode(path, ctx, work)
            encoded.append(chunk)
            notes.append(f"chunk {chunk.name!r} had left the store and was encoded again")
    return encoded


def _place(chunk: Chunk, start: int, prefix: int, ctx: Context, cache: GrowingCache) -> Span:
    """Put what the store has of ``chunk`` where it stands, from ``start`` on; ``prefix`` first rows are there."""
    behind, skipped = len(chunk.sink), max(0, prefix - start)
    assert ctx.adapter.rope is not None  # noqa: S101
    stop = start + skipped
    with ctx.store.reading(ctx.space(), (*chunk.sink, *chunk.token_ids), behind + skipped) as pieces:
        for at, kv in pieces:
            old = torch.arange(at, at + kv.length)
            cache.write(start + at - behind, ctx.adapter.rope.move(kv, old, old + (start - behind)))
            stop = start + at - behind + kv.length
    return Span(start + skipped, stop)


def _put(held: Held, start: int, prefix: int, ctx: Context, cache: GrowingCache) -> Span:
    """Put a strategy's own KV where it stands, from ``start`` on; ``prefix`` first rows are there."""
    assert held.kv is not None  # noqa: S101
    assert ctx.adapter.rope is not None  # noqa: S101
    skipped = max(0, prefix - start)
    kv, old = held.kv[skipped:], torch.arange(skipped, held.kv.length) + held.base
    moved = kv if held.base == start else ctx.adapter.rope.move(kv, old, old + (start - held.base))
    cache.write(start + skipped, moved)
    return Span(start + skipped, start + held.kv.length)
