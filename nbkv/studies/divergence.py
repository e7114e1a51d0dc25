"""One prompt and full's own answer, token by token under a strategy: where it would go another way, and how far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbkv.context import Request
from nbkv.families.prefix.base import encode
from nbkv.fidelity import kl
from nbkv.prompts.prompt import Prompt
from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse


@dataclass(frozen=True, eq=False)
class Trace:
    """``logits`` ``[n, V]`` before each of ``n`` answer tokens; ``first_s`` the seconds before the first of them.

    ``step_s``: the median seconds of one more. ``held``: the bytes of K/V after the last one, and of what others are
    restored from; ``peak`` the most at any moment; ``mean_held`` the mean of the bytes of K/V after each.
    """

    logits: torch.Tensor
    first_s: float
    step_s: float
    held: int
    peak: int
    mean_held: float = 0.0

    def picks(self) -> list[int]:
        """Return the greedy token at each place."""
        return [int(token) for token in self.logits.argmax(dim=-1)]

    def distance(self, full: Trace) -> float:
        """Return the mean KL(full || this) over the answer's tokens, in nats."""
        return statistics.fmean(kl(a, b) for a, b in zip(full.logits, self.logits, strict=True))


def hold_head(session: Session, prompt: Any) -> None:  # noqa: ANN401  (what ``generate`` takes)
    """Have the store hold what stands in front of the first chunk of ``prompt``, as a server has it."""
    ctx, built = session._open().for_request(), session._prompt(prompt)  # noqa: SLF001
    head = built.ids[: built.chunks[0][1]] if built.chunks else ()
    if head:
        encode(head, ctx)


def trace(
    session: Session,
    prompt: Any,  # noqa: ANN401  (what ``generate`` takes, or one that is built)
    tokens: Sequence[int],
    strategy: str | Strategy,
    *,
    keep: bool = False,
) -> Trace:
    """Run ``prompt`` (or its ids, a ``Prompt``) under ``strategy``, feed it the answer ``tokens``; return what it says.

    A greedy answer is ``tokens`` exactly if every pick is. ``keep``: what the strategy holds for later prompts stays.
    """
    ctx, chosen = session._open().for_request(), parse(strategy)  # noqa: SLF001
    built = prompt if isinstance(prompt, Prompt) else session._prompt(prompt)  # noqa: SLF001
    request = Request(built, len(tokens), keep=keep)
    chosen.check(ctx.adapter)
    began = time.perf_counter()
    prefilled = chosen.prefill(request, ctx)
    first_s = time.perf_counter() - began
    rows, times, at = [prefilled.logits], [], len(request.ids) + prefilled.extra
    sizes: list[int] = []
    try:
        with chosen.decoding(prefilled, ctx):
            for count, token in enumerate(tokens[:-1]):
                began = time.perf_counter()
                rows.append(chosen.step(token, at + count, prefilled, ctx))
                times.append(time.perf_counter() - began)
                sizes.append(prefilled.cache.held_bytes())
    finally:
        chosen.commit(prefilled, (*request.ids, *tokens), request, ctx)
    cache = prefilled.cache
    held, peak = cache.held_bytes() + (cache.restorable_bytes() or 0), cache.peak_bytes()
    logits = torch.stack([row.float() for row in rows])
    most, mean = held if peak is None else peak, statistics.fmean(sizes or [held])
    return Trace(logits, first_s, statistics.median(times or [0.0]), held, most, mean)
