"""RelayCaching: answers as they were decoded become parts of later prompts (arXiv 2603.13289)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption
from nbkv.families.agents.decoded import DecodedKV, captured, newest
from nbkv.families.agents.layer_profile import LayerProfile, layer_profile, value_distances
from nbkv.families.blend.earlier import HarvestedKV
from nbkv.families.blend.harvest import Harvest
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check, check_count, check_share, whole_numbers
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attended
from nbkv.scalars import is_number
from nbkv.selection import best
from nbkv.strategy import Prefilled

_THREE = 3  # layers of a range: its first, the detection layer, the one behind its last
_HIDDEN = "relay: hidden states"


@dataclass(kw_only=True, repr=False)
class Relay(Harvest):
    """Reuse answers with the K/V they were decoded with; run some of their rows again in the layers where it matters.

    An answer's K/V are moved to where it stands in a later prompt (``result.chunk("plan")``, or a ``Pipeline``). All of
    An answer's K/V are moved to where it stands in a later prompt (``result.chunk("plan")``, or a ``Pipeline``). All of
    its rows are run in the first layers of the critical range, from the hidden states that the range's first layer had
    for them while they were decoded; at the detection layer ``budget`` of the reused rows go on, those whose values
    there deviate most (1 - cos). They run to the end of the range; before and behind it K/V stay as decoded.
    ``budget=None`` is the paper's choice: rows that deviate more than ``deviation`` times the mean, or to which the
    prompt's last ``suffix`` tokens have paid more than ``influence`` times the mean attention so far. That attention
    overrates separators, whose values are near zero: on SmolLM2 it adds little to what deviates (docs/agents.md).

    ``layers`` is the range: its first layer, the detection layer, the layer behind its last. None: measured once for
    each model, by its effect on the next words (``families/agents/layer_profile.py``): the paper's own profiler was not
    read, only accounts of it. A ``budget`` of 0 runs none, 1 runs all in every layer. Chunks that ``session.chunk`` has
    encoded, and answers of exact strategies, have no hidden states: they are run from the first
    layer on. On models whose layers share K/V rows that go on run through all layers.

    What a request decoded is kept for its session, the longest unused goes first; ``store_share`` is how much, as a
    share of the store's limit.
    """

    name: ClassVar[str] = "relay"
    paper: ClassVar[str] = "RelayCaching, arXiv 2603.13289"
    summary: ClassVar[str] = "reuse answers as they were decoded in later prompts, rectify some rows in critical layers"
    needs: ClassVar[tuple[str, ...]] = (*Harvest.needs, "attention", "causal")
    in_some_layers: ClassVar[bool] = True
    contract_exempt: ClassVar[dict[str, str]] = {
        "memory": "all reused rows run up to the detection layer, beside what is placed there"
    }

    budget: float | None = 0.15
    layers: tuple[int, ...] | None = None
    deviation: float = 1.5
    influence: float = 1.45
    suffix: int = 10
    store_share: float = 0.25

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        super().__post_init__()
        if self.budget is not None:
            check_share(self, "budget")
        for name in ("deviation", "influence"):
            check(self, name, lambda value: is_number(value) and value >= 0, "a number >= 0")
        check_count(self, "suffix", least=1)
        if self.layers is not None:
            numbers = whole_numbers(self.layers) or ()
            if len(numbers) != _THREE or not numbers[0] < numbers[1] < numbers[2]:
                message = (
                    f"layers={self.layers!r} is not accepted: layers is the first layer that is run again, a later one "
                    "at which rows are selected, and the one behind the last, such as (4, 6, 24)"
                )
                raise BadOption(message)
            self.layers = numbers

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` for what the model lacks, ``BadOption`` for layers that it has not."""
        super().check(adapter)
        if self.layers is not None and self.layers[-1] > adapter.n_layers:
            message = f"layers={self.layers!r} is not accepted: {adapter.name} has {adapter.n_layers} layers"
            raise BadOption(message)

    # what is placed

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Blend in the range of layers that is asked for, or that this model's profile has."""
        if self.layers is not None or not self._rectifies:
            return super().prefill(request, ctx)
        found = layer_profile(ctx)
        return replace(self, layers=(found.start, found.detection, found.stop)).prefill(request, ctx)

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:
        """Return what is kept of the answers in the prompt, by where they stand."""
        mine, found = self._answers(ctx), {}
        for chunk, start, _ in request.prompt.chunks:
            if (one := newest(mine, chunk)) is not None:
                found[start] = one
        return request, found

    # which rows are run, and in which layers

    @property
    def _rectifies(self) -> bool:
        """Whether rows are run in a range of layers, rather than none or all of them."""
        return self.budget is None or 0 < self.budget < 1

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows to go on with, once all have run up to the detection layer."""
        rows = partial.reused
        if not len(rows) or self.budget == 0:
            return rows[:0]
        if self.budget is not None:
            return best(self._deviation(partial, nullcontext)[rows], rows, partial.room(self.budget))
        asking = torch.arange(max(0, partial.length - self.suffix), partial.length, device=rows.device)
        seen = torch.zeros(partial.length, device=rows.device)
        apart = self._deviation(partial, lambda: self._watching(partial, asking, seen))
        scores = torch.maximum(_over(apart[rows], self.deviation), _over(seen[rows], self.influence))
        return rows[scores > 1]

    def _deviation(self, partial: PartialPrefill, watching: Callable[[], AbstractContextManager[None]]) -> torch.Tensor:
        """Run all reused rows up to the detection layer; return how far their values there are from the cached.

        Passes are made within ``watching()`` each.
        """
        rows, profile = partial.reused, self._profile
        held, hidden = self._captured(partial, profile.start)
        partial.begin(rows[~torch.isin(rows, held)])
        if profile.start and not partial.adapter.capabilities.shared_kv:
            with watching():
                partial.advance(profile.start, select=True)
            if len(held):
                partial.join(held, hidden)
        with watching():
            return partial.deviation(profile.detection, measure=value_distances)

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows ``chosen`` to the end of the range, those without K/V through all layers."""
        stop = self.layers[-1] if self.layers and self._rectifies and len(partial.reused) else partial.n_layers
        if stop < partial.n_layers and not partial.adapter.capabilities.shared_kv:
            partial.narrow(chosen)
            partial.advance(stop, select=False)
            chosen = chosen[:0]
        return super().run(partial, chosen)

    @property
    def _profile(self) -> LayerProfile:
        assert self.layers is not None  # noqa: S101
        start, detection, stop = self.layers
        return LayerProfile(start=start, detection=detection, stop=stop)

    def _captured(self, partial: PartialPrefill, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the reused rows whose input of layer ``start`` was captured, and that input."""
        rows, hidden = [partial.reused[:0]], list[torch.Tensor]()
        for _, span, _ in partial.placed:
            one = next((one for at, one in partial.supplied.items() if at <= span.start < at + _length(one)), None)
            if start and isinstance(one, DecodedKV) and one.hidden is not None and one.layer == start:
                rows.append(torch.arange(span.start, span.stop, device=partial.reused.device))
                hidden.append(one.hidden[..., one.kv.length - span.length :, :])
        return torch.cat(rows), torch.cat(hidden, dim=-2) if hidden else torch.empty(0)

    def _watching(
        self, partial: PartialPrefill, asking: torch.Tensor, seen: torch.Tensor
    ) -> AbstractContextManager[None]:
        """Within the block add to ``seen`` ``[n]`` the attention that rows ``asking`` pay to each position."""

        def see(one: Attended) -> None:
            paid = one.weights.float().sum(dim=(0, 1)).to(seen.device)
            seen[: len(paid)] += paid[: len(seen)]

        return partial.watching(see, asking)

    # what is kept

    def decoding(self, prefilled: Prefilled, ctx: Context) -> AbstractContextManager[object]:
        """Capture what the first layer of the range is given for each token of the answer."""
        partial = prefilled.own
        start = self._start(ctx) if isinstance(partial, PartialPrefill) else 0
        if not start:
            return nullcontext()

        def keep(hidden: torch.Tensor) -> None:
            partial.found[_HIDDEN] = hidden

        return captured(ctx.adapter, start, keep)

    def harvest(
        self, partial: PartialPrefill, ids: Sequence[int], request: Request, ctx: Context
    ) -> Sequence[HarvestedKV]:
        """Return all answers with this one, and note which were used."""
        known, base = list(self.kept(ctx)), len(request.ids)
        used = {one.ids for one in partial.supplied.values() if isinstance(one, DecodedKV)}
        known = [
            replace(one, used=ctx.request) if isinstance(one, DecodedKV) and one.ids in used else one for one in known
        ]
        stop = min(len(ids), partial.cache.length)
        if stop <= base:
            return known
        hidden = partial.found.get(_HIDDEN)
        fits = hidden is not None and hidden.dim() == _THREE and hidden.shape[-2] >= stop - base
        new = DecodedKV(
            space=self.space(ctx),
            kv=partial.cache.read(base, stop).compact(),
            base=base,
            ids=tuple(ids[:stop]),
            hidden=hidden[:, : stop - base] if fits and hidden is not None else None,
            layer=self._start(ctx),
            used=ctx.request,
        )
        return [*(one for one in known if (one.space, _ids(one)) != (new.space, new.ids)), new]

    def worth(self, kept: HarvestedKV) -> float:
        """Return when it was used last."""
        return float(kept.used) if isinstance(kept, DecodedKV) else 0.0

    def _start(self, ctx: Context) -> int:
        if not self._rectifies or ctx.adapter.capabilities.shared_kv:
            return 0
        return self.layers[0] if self.layers is not None else layer_profile(ctx).start

    def _answers(self, ctx: Context) -> list[DecodedKV]:
        space = self.space(ctx)
        return [one for one in self.kept(ctx) if isinstance(one, DecodedKV) and one.space == space]


def _over(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return ``scores`` over ``threshold`` times their mean."""
    return scores / (threshold * scores.mean()).clamp(min=torch.finfo(scores.dtype).tiny)


def _length(held: SpanKV) -> int:
    return 0 if held.kv is None else held.kv.length


def _ids(kept: HarvestedKV) -> tuple[int, ...]:
    return kept.ids if isinstance(kept, DecodedKV) else ()
