"""A partial prefill: a prompt of which some rows have K/V in a working cache, and the passes that compute others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from nbkv import ops
from nbkv.families.blend.allotment import Allotment, MovedRun
from nbkv.families.blend.layerwise import LayerwisePlacement, SpanKV
from nbkv.kv import Span
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import OnAttention, watched
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.growing_layer import Pair
from nbkv.models.work import LayerInput, Work
from nbkv.result import Chunk

Measure = Callable[[Pair, Pair, torch.Tensor], torch.Tensor]  # cached and fresh K/V, and which rows of the cached
_ENDS = (".", "!", "?", "\n", "。", "!", "?")


class PlacedChunk(NamedTuple):
    """A chunk and the rows its KV was put at; ``encoded``: during this request, so that they count as fresh."""

    chunk: Chunk
    span: Span
    encoded: bool


@dataclass(eq=False)
class PartialPrefill:
    """One prompt of ``length`` tokens whose K/V come from several sources; a row is an absolute position in the prompt.

    The first ``prefix`` rows are an exact prefix (``known`` of them are in the store: one more where the prompt's last
    row is among them, which must run). ``reused`` ``[R]`` are the rows ``placed`` from chunks, ``fresh`` ``[F]`` those
    without K/V, ``last`` ``[1]`` the prompt's last row, which always runs. ``cache`` holds them all, each layer from
    the moment that it runs (``placement``). ``supplied`` are the strategy's own K/V by first position, ``found`` what
    its selection learned and its later stages read. ``bases``: where the run that begins at a row stood in an earlier
    prompt or answer, for what was moved from there rather than encoded alone. ``deviations`` float32 ``[n]`` are the
    distances of fresh from cached K/V by position, nan where they were never compared. Rows put ``ahead`` are reused
    ones that are run with those without K/V, whatever is selected: from then on ``reused`` are the others.
    """

    adapter: ModelAdapter
    ids: torch.Tensor
    cache: GrowingCache
    prefix: int
    known: int
    placed: list[PlacedChunk]
    rows_work: Work
    select_work: Work
    pieces: Callable[[Sequence[int]], tuple[str, ...]]
    placement: LayerwisePlacement
    notes: list[str] = field(default_factory=list)
    supplied: Mapping[int, SpanKV] = field(default_factory=dict)
    found: dict[str, torch.Tensor] = field(default_factory=dict)
    deviations: torch.Tensor | None = None
    bases: Mapping[int, int] = field(default_factory=dict)
    _allotted: int = 0
    _rows: torch.Tensor | None = None
    _paused: LayerInput | None = None

    def __post_init__(self) -> None:
        """Sort all rows into those with and without KV."""
        held = torch.zeros(self.length, dtype=torch.bool)
        for _, span, _ in self.placed:
            held[span.start : span.stop] = True
        self.reused = held.nonzero().flatten().to(self.adapter.device)
        held[: self.prefix] = True
        self.fresh = (~held).nonzero().flatten().to(self.adapter.device)
        self.last = torch.tensor([self.length - 1], device=self.adapter.device)
        self.ahead = self.reused[:0]
        spans = [span for _, span, _ in self.placed if span.start in self.bases]
        moved = tuple(MovedRun(*span, self.bases[span.start]) for span in spans)
        self.allotment = Allotment(moved, len(self.reused) - sum(span.length for span in spans), self.prefix)

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
        """Return how many rows ``budget``, a share of the reused ones, allows besides those put ``ahead``.

        Of what was moved within a history it is a part of that share, as ``Allotment`` has it.
        """
        if budget == 1:
            return len(self.reused)
        every = self.allotment.rows(budget)
        return every - (len(self.ahead) * every // self._allotted if self._allotted else 0)

    def put_ahead(self, rows: Sequence[int], budget: float) -> None:
        """Have the reused ``rows`` run whatever is selected, at the expense of ``budget``; before any pass."""
        self.ahead, self._allotted = self.reused.new_tensor(rows), self.allotment.rows(budget)
        self.reused = self.reused[~torch.isin(self.reused, self.ahead)]

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return self.adapter.n_layers

    # passes

    @property
    def running(self) -> torch.Tensor:
        """Return the rows under way; after ``begin``."""
        assert self._rows is not None  # noqa: S101
        return self._rows

    def begin(self, rows: torch.Tensor) -> torch.Tensor:
        """Take ``rows`` through the layers from the first one on, with those ahead and without KV; return them all."""
        self._rows, self._paused = self._with_fresh(rows), None
        return self._rows

    def advance(self, stop: int, *, select: bool) -> torch.Tensor:
        """Run the rows under way up to layer ``stop``, counted as selection or not; return them."""
        assert self._rows is not None  # noqa: S101
        work = self.select_work if select else self.rows_work
        paused = self.adapter.advance(
            self.ids[self._rows],
            self._rows,
            self.cache,
            stop=stop,
            since=self._paused,
            work=work,
            before=self.placement.need,
        )
        self._resume_from(paused)
        return self._rows

    def narrow(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only, and those without KV."""
        assert self._rows is not None  # noqa: S101
        wanted = self._with_fresh(rows)
        kept = torch.isin(self._rows, wanted)
        self._rows = self._rows[kept]
        self._paused = None if self._paused is None else self._paused.keep(kept.nonzero().flatten())

    def join(self, rows: torch.Tensor, hidden: torch.Tensor) -> None:
        """Have ``rows`` go on as well, with ``hidden`` ``[..., n, H]`` for what the layer that runs next is given."""
        assert self._rows is not None  # noqa: S101
        assert self._paused is not None  # noqa: S101
        new = ~torch.isin(rows, self._rows)  # some may have been put ahead
        rows, hidden = rows[new], hidden[..., new.to(hidden.device), :]
        together = torch.cat([self._rows, rows])
        order = together.argsort()
        every = torch.cat([self._paused.hidden, hidden.to(self._paused.hidden)], dim=-2)
        self._rows, self._paused = together[order], replace(self._paused, hidden=every.index_select(-2, order))

    def finish(self, rows: torch.Tensor) -> torch.Tensor:
        """Run ``rows`` and those without K/V through the remaining layers; return the last token's logits ``[V]``."""
        if self._rows is None:
            self.begin(rows)
        else:
            self.narrow(rows)
        assert self._rows is not None  # noqa: S101
        some = self.ids[self._rows]
        before = self.placement.need
        return self.adapter.recompute(
            some, self._rows, self.cache, since=self._paused, work=self.rows_work, before=before
        )[-1]

    def deviation(self, layer: int, side: str = "kv", power: int = 2, measure: Measure | None = None) -> torch.Tensor:
        """Run the rows under way until ``layer`` has made their K/V; return how far these are from the cached.

        As ``comparing`` has it, counted as selection. The rows that go on run that layer; no other row has to.
        """
        assert self._rows is not None  # noqa: S101
        some, since = self.ids[self._rows], self._paused
        with self.comparing(layer, side, power, measure) as distance:
            options: dict[str, Any] = {"work": self.select_work, "before": self.placement.need}
            self._resume_from(
                self.adapter.advance_to_kv(some, self._rows, self.cache, layer=layer, since=since, **options)
            )
        return distance

    @contextmanager
    def comparing(
        self, layer: int, side: str = "kv", power: int = 2, measure: Measure | None = None
    ) -> Iterator[torch.Tensor]:
        """Within the block, find how far the K/V that rows get in ``layer`` are from the cached ones.

        Float32 ``[n]`` by position: differences to the ``power`` summed over heads and dimensions, of keys (``k``),
        values (``v``) or both, or what ``measure`` makes of cached, fresh and rows; 0 for rows that did not run.
        """
        distance = torch.zeros(self.length, device=self.ids.device)
        rows = self._rows
        assert rows is not None  # noqa: S101

        sides = ["kv".index(name) for name in side]

        def compare(cached: Pair, fresh: Pair, at: torch.Tensor) -> None:
            if measure is not None:
                gaps = measure(cached, fresh, at)
            else:
                old, new = (tuple(each[i] for i in sides) for each in (cached, fresh))
                gaps = ops.kv_deviation(old, new, at, power=power)
            distance.index_copy_(0, rows, gaps.to(distance.device))

        with self.cache.watching(layer, compare):
            yield distance
        if self.deviations is None:
            self.deviations = torch.full_like(distance, torch.nan)
        compared = rows[torch.isin(rows, self.reused)]
        self.deviations[compared] = distance[compared]

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
        rows = self._rows = torch.cat([self.fresh, self.last]).unique()
        self._paused = None
        with self.watching(on_attention, self.question if of is None else of):
            if stop is None or stop >= self.n_layers:
                before = self.placement.need
                self.adapter.recompute(self.ids[rows], rows, self.cache, work=self.select_work, before=before)
            else:
                self.advance(stop, select=True)
        self._rows = self._paused = None

    def _resume_from(self, paused: LayerInput) -> None:
        """Let the next pass continue from the hidden states at which this one paused."""
        # layers that use other layers' K/V are given it within one pass: the next one has to begin anew
        self._paused = None if self.adapter.capabilities.shared_kv else paused

    def _with_fresh(self, rows: torch.Tensor) -> torch.Tensor:
        together: torch.Tensor = torch.cat([rows, self.ahead, self.fresh, self.last]).unique()
        return together


Mix = PartialPrefill  # its name in version 0.1, by which strategies of other packages import it
