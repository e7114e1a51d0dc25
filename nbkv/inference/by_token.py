"""The decode loop of causal models: each token is chosen from the logits after the one before."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from nbkv.events import Fallback
from nbkv.inference.loop import DecodeLoop
from nbkv.models.sampling import Chooser
from nbkv.models.work import Unfollowed, Work
from nbkv.show.units import plural

_QUICK_S = 0.1  # after a token that took less, a stop can wait for the end of the next one


class ByToken(DecodeLoop):
    """Each token is chosen from the logits after the one before."""

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each token; the last one has a reason to finish."""
        ctx, request, prefilled = self.task.ctx, self.task.request, self.task.prefilled
        logits = prefilled.logits
        chooser = Chooser(self.task.sampling, self._config, request.ids, logits.device)
        followed, quick = self.task.ctx.work(), Unfollowed()
        prefilled.decode += [followed, quick]
        work = followed
        while True:
            token = chooser.choose(logits)
            piece, reason = self._take(token, logits, chooser)
            self.mark()
            yield piece, reason
            if reason:
                return
            ctx.stopper.check()
            at = len(request.ids) + prefilled.extra + len(self.tokens) - 1
            if at == ctx.adapter.capabilities.rope_switch:
                logits = self._start_over(followed)
            else:
                began = time.perf_counter()
                logits = self.task.step(token, at, work)
                work = quick if time.perf_counter() - began < _QUICK_S else followed
            prefilled.decoded += 1

    def _start_over(self, work: Work) -> torch.Tensor:
        """Run everything again in a cache of its own: from here on the model turns all tokens by other angles."""
        adapter, request, prefilled = self.task.ctx.adapter, self.task.request, self.task.prefilled
        ids = (*request.ids, *self.tokens)
        prefilled.cache, prefilled.extra = adapter.new_cache(len(request.ids) + request.max_new_tokens), 0
        after = plural(len(ids) - 1, "token")
        why = f"longrope changes its angles after {after}: prompt and answer so far were run again"
        prefilled.notes.append(why)
        self.task.ctx.tell(Fallback, why=why)
        return adapter.forward(adapter.tensor(ids), prefilled.cache, start=0, work=work)[-1]
