"""KVShare: spans of earlier prompts, and the tokens where attention meets a changed value (arXiv 2503.16525)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.families.blend.earlier import EarlierPrompt, HarvestedKV, find_runs, spot
from nbkv.families.blend.harvest import Harvest
from nbkv.families.blend.layerwise import SpanKV
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_count, check_share
from nbkv.models.attention.intercept import watched
from nbkv.models.attention.layer import Attended
from nbkv.models.work import Work
from nbkv.prompts.earlier import in_order
from nbkv.prompts.matching import without_overlap
from nbkv.result import Chunk, Provenance
from nbkv.selection import best
from nbkv.strategy import Prefilled

if TYPE_CHECKING:
    from nbkv.prompts.matching import Ids, Match


@dataclass(kw_only=True, repr=False)
class KVShare(Harvest):
    """Reuse any run of tokens that an earlier prompt had; recompute by dual-stage high deviation (DHD).

    At prefill, all reused rows run up to ``check_layer``, and the ``budget`` of them that have the highest
    ``alpha_j |dV_j|_1`` go on: attention received there, times how far the fresh value is from the reused one (the
    paper tries 10 to 40 %). After each decoded token the rows still as they were are scored again, with that token's
    attention at the same layer and the same ``|dV_j|_1``, and the best ``decode_tokens`` of them are recomputed before
    the next token. ``budget=0`` leaves only this second stage, ``decode_tokens=0`` only the first.

    Runs of at least ``shortest`` tokens are found by rolling hash, without marks in the prompt, in what this session
    ran under this strategy. A chunk that is given is one more place to find them: where a run covers it whole it is
    taken from there, and only otherwise from the store, whose canonical KV stand for a prompt that was this chunk
    alone. Not here: the paper's scheduler, which orders requests of a batch by hit rate, and its sharing between
    tenants.
    """

    name: ClassVar[str] = "kvshare"
    paper: ClassVar[str] = "KVShare, arXiv 2503.16525"
    summary: ClassVar[str] = "reuse spans of earlier prompts; recompute where attention meets changed values"
    needs: ClassVar[tuple[str, ...]] = (*Harvest.needs, "attention", "causal")

    budget: float = 0.2
    decode_tokens: int = 3
    check_layer: int = 1
    shortest: int = 16
    store_share: float = 0.25

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        super().__post_init__()
        check_share(self, "budget")
        check_count(self, "decode_tokens", "check_layer")
        check_count(self, "shortest", least=2)

    # spans of earlier prompts

    def supply(self, request: Request, ctx: Context) -> tuple[Request, Mapping[int, SpanKV]]:
        """Return the request with the runs that earlier prompts had too; chunks that lie in none keep their place."""
        earlier, held = self._earlier(ctx), {}
        matches = find_runs(request.ids, earlier, self.shortest)
        taken = np.zeros(len(request.ids), dtype=np.bool_)
        chunks = _uncovered(request.prompt.chunks, without_overlap(matches, taken, self.shortest))
        for _, start, stop in chunks:
            taken[start:stop] = True
        for match in without_overlap(matches, taken, self.shortest):
            held[match.at] = earlier[match.which].run(match)
            chunks.append(spot(request, match, self.space(ctx).lineage))
        found = replace(request.prompt, chunks=in_order(chunks))
        return replace(request, prompt=found), held

    def harvest(
        self,
        partial: PartialPrefill,
        ids: Sequence[int],
        request: Request,  # noqa: ARG002
        ctx: Context,
    ) -> Sequence[HarvestedKV]:
        """Return what is known with this prompt and its answer, in place of those that it only continues."""
        length = min(len(ids), partial.cache.length)
        new, space = np.array(ids[:length]), self.space(ctx)
        left = [one for one in self.kept(ctx) if not (one.space == space and _begins(new, one))]
        turn = 1 + max((one.turn for one in left if isinstance(one, EarlierPrompt)), default=0)
        kv = partial.cache.read(0, length).compact()
        return [*left, EarlierPrompt.of(new, kv, space, turn, self.shortest)]

    def worth(self, kept: HarvestedKV) -> float:
        """Return the turn it was run in: the oldest is evicted first."""
        return kept.turn if isinstance(kept, EarlierPrompt) else 0

    def _earlier(self, ctx: Context) -> list[EarlierPrompt]:
        space = self.space(ctx)
        return [one for one in self.kept(ctx) if isinstance(one, EarlierPrompt) and one.space == space]

    # which rows

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows with the highest deviation at the check layer (DHD, prefill stage)."""
        room, layer = partial.room(self.budget), self._layer(partial)
        if not len(partial.reused) or layer < 0 or not (room or self.decode_tokens):
            return partial.reused[:room]
        partial.begin(partial.reused)
        if layer:
            partial.advance(layer, select=True)
        received = torch.zeros(partial.length, device=partial.ids.device)

        def see(seen: Attended) -> None:
            if seen.layer == layer:
                received.add_(seen.weights.sum(dim=(0, 1)).to(received.device))

        with partial.watching(see, torch.arange(partial.length, device=partial.ids.device)):
            with partial.comparing(layer, "v", power=1) as moved:
                partial.advance(layer + 1, select=True)
            partial.found["moved"] = moved
        return best(deviation(received, moved)[partial.reused], partial.reused, room)

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one decoded token, then the rows it shows to deviate most (DHD, decode stage)."""
        partial = prefilled.own
        moved = None if partial is None or prefilled.cache is not partial.cache else partial.found.get("moved")
        left = (prefilled.provenance == Provenance.CHUNK).nonzero()[0]
        if moved is None or not self.decode_tokens or not len(left):
            return super().step(token, at, prefilled, ctx, work)
        rows, received = torch.from_numpy(left).to(moved.device), torch.zeros_like(moved)

        def see(seen: Attended) -> None:
            if seen.layer == self._layer(partial):
                received.add_(seen.weights[:, 0, : partial.length].sum(dim=0).to(received.device))

        with watched(ctx.adapter.config, torch.tensor([0]), see):
            logits = super().step(token, at, prefilled, ctx, work)
        again = best(deviation(received, moved)[rows], rows, self.decode_tokens)
        ctx.adapter.recompute(partial.ids[again], again, partial.cache, work=prefilled.rows)
        prefilled.provenance[again.cpu().numpy()] = Provenance.RECOMPUTED
        return logits

    def _layer(self, partial: PartialPrefill) -> int:
        """Return the check layer; the last layer cannot be one, since nothing would be left to save behind it."""
        return min(self.check_layer, partial.n_layers - 2)


def deviation(received: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Return the DHD scores ``alpha_j |dV_j|_1`` ``[n]``: attention ``received`` times how far values ``moved``."""
    return received * moved


def _uncovered(given: Sequence[tuple[Chunk, int, int]], runs: Sequence[Match]) -> list[tuple[Chunk, int, int]]:
    """Return the chunks that no one of ``runs`` covers from end to end."""
    return [chunk for chunk in given if not any(run.at <= chunk[1] and chunk[2] <= run.at + run.length for run in runs)]


def _begins(new: Ids, one: HarvestedKV) -> bool:
    """Return whether ``one`` is the beginning of ``new``."""
    return isinstance(one, EarlierPrompt) and len(one.ids) <= len(new) and bool((new[: len(one.ids)] == one.ids).all())
