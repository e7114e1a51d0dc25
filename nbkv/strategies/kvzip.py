"""KVzip: keep what the model needs to repeat a context, whatever is asked later (Kim et al., arXiv 2505.23416)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.families.evict.base import Evict
from nbkv.families.evict.budget import BudgetedCache
from nbkv.families.fallback import in_full
from nbkv.families.options import check_count
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.evicting import EvictingLayer
from nbkv.models.passes import over_slots
from nbkv.models.work import Work
from nbkv.strategy import Prefilled

_ASKED = "\n\nRepeat the previous context:\n\n", "\n\nRepeat the part of the previous context that begins with:\n\n"
_CUE = 8  # tokens of the piece before that a later piece is asked for by
_LEAST = 16  # tokens that a piece has room for, or there is no repeating
_UNSEEN = -2.0  # offset of importance, which is below 0 so: slots that nobody weighed have 0


@dataclass(kw_only=True, repr=False)
class KVzip(Evict):
    """Keep the tokens of a context that receive the most attention while the model repeats that context word by word.

    A token's importance is the largest attention weight that any row of the repetition, of any query head, pays to it:
    no question is known then, so one compressed context serves all. The repetition is teacher-forced in pieces of
    ``piece`` tokens over the context's own K/V, which takes about as long as two more prefills. Each K/V head keeps
    equally many slots here; the paper lets heads compete for them.

    What is compressed is the prompt up to its last chunk (``context``), and a session's later prompts go on from it.
    In a store whose tiers have ``form=kvzip`` compressed contexts are at rest, for later sessions and other processes.
    What comes behind a context is kept as it is, and a share (``keep``) is of all tokens so far: as question and answer
    grow, the context's least important go.
    """

    name: ClassVar[str] = "kvzip"
    paper: ClassVar[str] = "KVzip, arXiv 2505.23416"
    summary: ClassVar[str] = "keep what the model needs to repeat a context, for any question; at rest in tiers too"
    whole: ClassVar[bool] = True
    observes_prompt: ClassVar[bool] = False
    observes_decoding: ClassVar[bool] = False
    at_rest: ClassVar[str] = "kvzip"

    context: str | int = "chunks"
    piece: int = 1024

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        super().__post_init__()
        check_count(self, "piece", least=_LEAST)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Prefill as all evicting strategies do; in full where the context length leaves no room to repeat."""
        if self.keep != 1.0 and self._room(len(request.ids), ctx) < _LEAST:
            return in_full(self, request, ctx, "nothing was dropped", "the context length has no room to repeat it in")
        return super().prefill(request, ctx)

    def weigh(self, ids: Sequence[int], held: BudgetedCache, work: Work, ctx: Context) -> None:
        """Have the model repeat ``ids``; note of every slot the largest attention that it received, and the sum."""
        cache = held.cache
        slots = [layer.length for layer in cache.layers]
        kept = []  # of the attention that earlier droppings have left, by head
        for layer in cache.layers:
            seen, before = layer.mark("importance"), layer.mark("attention")
            kept.append(before.sum(dim=-1, keepdim=True) if bool(before.any()) else 1.0)
            before.zero_()
            seen[seen == 0] = _UNSEEN

        def observe(attended: Attended) -> None:
            layer, most = cache.layers[attended.layer], slots[attended.layer]
            weights = attended.weights[..., :most].unflatten(0, (len(layer.positions), -1))
            seen = layer.mark("importance")[:, :most]
            torch.maximum(seen, weights.amax(dim=(1, 2)) + _UNSEEN, out=seen)
            layer.mark("attention")[:, :most] += weights.sum(dim=(1, 2))

        for asked in self._repetitions(ids, cache.seen, ctx):
            rows = ctx.adapter.tensor(asked)
            over_slots(ctx.adapter, rows, cache, observe=observe, observed=len(asked), work=work)
            cache.forget(len(asked))
        for layer, share in zip(cache.layers, kept, strict=True):
            received = layer.mark("attention")
            received.mul_(share / received.sum(dim=-1, keepdim=True).clamp(min=1e-9))

    def worth(self, layer: EvictingLayer, at: int, room: int) -> torch.Tensor:  # noqa: ARG002
        """Return the importance; slots that were not weighed (question, answer) score above all others, by position."""
        importance, positions = layer.mark("importance"), layer.positions.float()
        newest = positions / max(1, at) * 1e-6  # of equal ones the last, which windows still see
        return torch.where(importance < 0, importance + newest, 1.0 + positions)

    def lost(self, held: BudgetedCache) -> float:
        """Return the share of the repetition's attention to the context that dropped slots had, in the worst layer."""
        shares = [layer.mark("attention").sum(dim=-1) for layer in held.cache.layers]
        return max((1.0 - float(share[share > 0].mean()) for share in shares if bool(share.any())), default=0.0)

    def _repetitions(self, ids: Sequence[int], seen: int, ctx: Context) -> Iterator[list[int]]:
        """Yield what the model is made to say: the request to repeat, and a piece of ``ids``."""
        first, later = (ctx.codec.part(text, first=False) for text in _ASKED)
        size = min(self.piece, self._room(seen, ctx))
        for start in range(0, len(ids), size):
            cue = [*later, *ids[max(0, start - _CUE) : start]] if start else first
            yield [*cue, *ids[start : start + size]]

    def _room(self, seen: int, ctx: Context) -> int:
        """Return how many tokens a piece may have behind ``seen`` ones."""
        asked = max(len(ctx.codec.part(text, first=False)) for text in _ASKED) + _CUE
        return ctx.adapter.capabilities.stable_context - seen - asked
