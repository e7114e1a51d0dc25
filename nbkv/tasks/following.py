"""One prompt and full's own answer, token by token under a strategy: where it would go another way, and how far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nbkv.fidelity import kl
from nbkv.strategy import Request, Strategy, parse


@dataclass(frozen=True, eq=False)
class Trace:
    """``logits`` ``[n, V]`` before each of ``n`` answer tokens; ``step_s`` the median seconds a token took.

    ``held`` are the bytes of K/V after the last one, ``peak`` the most at any moment.
    """

    logits: torch.Tensor
    step_s: float
    held: int
    peak: int

    def picks(self) -> list[int]:
        """Return the greedy token at each place."""
        return [int(token) for token in self.logits.argmax(dim=-1)]

    def distance(self, full: Trace) -> float:
        """Return the mean KL(full || this) over the answer's tokens, in nats."""
        return statistics.fmean(kl(a, b) for a, b in zip(full.logits, self.logits, strict=True))


def trace(session: Any, prompt: Any, tokens: Sequence[int], strategy: str | Strategy, *, keep: bool = False) -> Trace:  # noqa: ANN401
    """Run ``prompt`` under ``strategy``, feed it the answer ``tokens``, and return what it would have said.

    A greedy answer is ``tokens`` exactly if every pick is. ``keep``: what the strategy holds for later prompts stays.
    """
    engine, chosen = session._open(), parse(strategy)  # noqa: SLF001
    ctx, request = engine.context(), Request(session._prompt(prompt), len(tokens), keep=keep)  # noqa: SLF001
    chosen.check(engine.adapter)
    prefilled = chosen.prefill(request, ctx)
    rows, times, at = [prefilled.logits], [], len(request.ids) + prefilled.extra
    try:
        with chosen.decoding(prefilled, ctx):
            for count, token in enumerate(tokens[:-1]):
                began = time.perf_counter()
                rows.append(chosen.step(token, at + count, prefilled, ctx))
                times.append(time.perf_counter() - began)
    finally:
        chosen.commit(prefilled, (*request.ids, *tokens), request, ctx)
    held = sum(_nbytes(layer) for layer in getattr(prefilled.cache, "layers", ()))
    peak = getattr(prefilled.cache, "peak", held)
    return Trace(torch.stack([row.float() for row in rows]), statistics.median(times or [0.0]), held, peak)


def _nbytes(layer: Any) -> int:  # noqa: ANN401
    sides = (getattr(layer, "keys", None), getattr(layer, "values", None))
    return sum(side.numel() * side.element_size() for side in sides if isinstance(side, torch.Tensor))
