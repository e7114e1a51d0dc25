"""A trial: one made-up prompt under one strategy, and what is looked at before its K/V go where they are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch

from nbkv.context import Context, Request
from nbkv.events import Bus, Event, Fallback, Layer
from nbkv.families.prefix.base import encode
from nbkv.kv import KV
from nbkv.prompts.prompt import Prompt
from nbkv.session.verification.prompts import ChunkPrompt
from nbkv.stores.base import Scratch
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Prefilled, Strategy

_LIMIT = 2**40  # bytes, more than there are


@dataclass(frozen=True, eq=False)
class Trial:
    """What a strategy made of ``prompt``.

    ``first`` ``[V]`` and ``steps`` ``[k, V]`` are logits of the answer's first token, and behind each forced one.
    ``kv`` are the K/V of the prefilled cache, ``decoded`` those of the forced tokens; None where they do not lie by
    position. ``layers`` counts the most rows that any pass of the prefill ran in a layer. ``fallbacks`` say what was
    done another way.
    """

    prompt: Prompt
    prefilled: Prefilled
    first: torch.Tensor
    steps: torch.Tensor
    kv: KV | None
    decoded: KV | None
    layers: Counter[int]
    fallbacks: tuple[str, ...]

    @property
    def places(self) -> torch.Tensor:
        """Return the rows of the cache ``[n_prompt]`` that hold the prompt's tokens."""
        own = self.prefilled.places
        return torch.arange(len(self.prompt.ids)) if own is None else torch.from_numpy(own)


def in_store_of_its_own(ctx: Context) -> Context:
    """Return ``ctx`` with an empty store and empty scratch space, heard by nobody."""
    return replace(ctx, store=MemoryStore(limit=_LIMIT), bus=Bus(), scratch=Scratch())


def encode_chunks(ctx: Context, given: ChunkPrompt) -> None:
    """Have the store hold the chunks of a prompt as they are needed at their places, but for the missing ones."""
    for chunk, start, _ in given.prompt.chunks:
        if chunk.name not in given.missing:
            encode(chunk.path(start, ctx.adapter.capabilities.block), ctx)


def attempt(ctx: Context, strategy: Strategy, prompt: Prompt, tokens: tuple[int, ...] = ()) -> Trial:
    """Run ``prompt``, force ``tokens`` behind it, and let the strategy keep what it keeps."""
    heard: list[Event] = []
    ctx = replace(ctx, bus=Bus())
    ctx.bus.add(heard.append)
    request = Request(prompt, len(tokens) + 1)
    prefilled = strategy.prefill(request, ctx)
    layers: Counter[int] = Counter()
    for event in heard:
        if isinstance(event, Layer):
            layers[event.index] = max(layers[event.index], event.rows)
    rows = ctx.adapter.capabilities.whole(len(prompt.ids) + prefilled.extra)
    kv = _read(prefilled, 0, rows)
    with strategy.decoding(prefilled, ctx):
        first = strategy.opening(prefilled, request, ctx)
        steps = [strategy.step(token, rows + at, prefilled, ctx, ctx.work()) for at, token in enumerate(tokens)]
    decoded = _read(prefilled, rows, rows + len(tokens)) if tokens else None
    strategy.commit(prefilled, (*prompt.ids, *tokens), request, ctx)
    why = tuple(event.why for event in heard if isinstance(event, Fallback))
    behind = torch.stack(steps) if steps else torch.empty(0)
    return Trial(prompt, prefilled, first, behind, kv, decoded, layers, why)


def _read(prefilled: Prefilled, start: int, stop: int) -> KV | None:
    """Return a copy of the K/V of rows ``[start, stop)``; None where the cache does not hold them by position."""
    try:
        return prefilled.cache.read(start, stop).compact()
    except TypeError:
        return None
