"""A strategy that follows an answer beside the one that serves it: how far it would have been, token by token."""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch

from nbkv.context import Context, Request
from nbkv.events import Bus
from nbkv.fidelity import kl
from nbkv.models.work import Work
from nbkv.strategy import Strategy
from nbkv.timing import settle


class Alongside:
    """``strategy`` on one prompt, fed the served answer's tokens; ``kls`` are KL(served || strategy) in nats so far.

    Nobody hears of it and nothing of it is kept. A block-diffusion model is followed to the first pass over the answer.
    """

    def __init__(self, strategy: Strategy, request: Request, ctx: Context, tokens: int) -> None:
        """Run the prompt; at most ``tokens`` tokens of the answer are compared."""
        self._strategy, self._ctx, self._tokens = strategy, replace(ctx, bus=Bus()), tokens
        self._request = replace(request, keep=False)
        self.work = Work()  # token-layers run beside the answer
        self._prefilled = strategy.prefill(self._request, self._ctx)
        self._logits = strategy.opening(self._prefilled, self._request, self._ctx)
        self.work.token_layers = self._prefilled.select.token_layers + self._prefilled.rows.token_layers
        self._next = len(request.ids)
        self.kls: list[float] = []
        settle(ctx.adapter)

    @property
    def kl(self) -> float:
        """Return the mean over the tokens compared."""
        return statistics.fmean(self.kls)

    def compare(self, served: torch.Tensor) -> None:
        """Compare the logits ``[V]`` that were ``served`` before the next token with this strategy's own."""
        self.kls.append(kl(served, self._logits.to(served.device)))

    def step(self, token: int, position: int, served: torch.Tensor) -> None:
        """Run ``token`` of the served answer, which stands at ``position`` of the sequence, and compare what follows.

        Tokens that were run another way than by the serving strategy's ``step`` end the comparison.
        """
        if len(self.kls) >= self._tokens or position != self._next:
            return
        own, ctx = self._prefilled, self._ctx
        with self._strategy.decoding(own, ctx):
            self._logits = self._strategy.step(token, position + own.extra, own, ctx, self.work)
        self._next += 1
        self.compare(served)

    def end(self) -> None:
        """Let go of what the prompt was run in."""
        self._strategy.commit(self._prefilled, self._request.ids, self._request, self._ctx)
