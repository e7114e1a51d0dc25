"""The faithfulness meter: how far an answer's strategy is from full on that very prompt, found out after the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, lacks_memory
from nbkv.events import Bus
from nbkv.families.routing.kl_history import learn_kl
from nbkv.fidelity import fidelity, kl_rows
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt
from nbkv.result import Provenance, Result
from nbkv.scalars import is_whole
from nbkv.stopping import Stopped
from nbkv.strategy import Prefilled, Strategy, parse

_GREEDY = 32  # tokens of full that every strategy is asked to agree with
_FLOORS = 3  # prompts on which the noise of a model is measured

After = Callable[[RequestRun, Strategy], Result]


class FidelityMeter:
    """Says which requests of a session are measured: those that ask for it, and every ``every``-th (0: no others)."""

    def __init__(self, every: int) -> None:
        """Raise ``BadOption`` unless ``every`` is a whole number >= 0."""
        if not is_whole(every):
            message = f"fidelity_every={every!r:.60} is not accepted: a whole number >= 0 (0: none unasked)"
            raise BadOption(message)
        self._every = int(every)

    def check(self, asked: object) -> None:
        """Raise ``BadOption`` unless ``asked``, what a call says about being measured, is a bool."""
        if not isinstance(asked, bool):
            message = f"fidelity={asked!r:.60} is not accepted: True measures the distance to full after the answer"
            raise BadOption(message)

    def after(self, number: int, asked: bool) -> After | None:  # noqa: FBT001  (what the caller of a request said)
        """Return what request ``number`` ends with, or None."""
        return measured if asked or (self._every and number % self._every == 0) else None


def measured(run: RequestRun, served: Strategy) -> Result:
    """Return ``run``'s result with the distance of ``served`` to full over full's greedy answer to the same prompt.

    Both are run again for it, which no timing counts and nobody hears of; nothing of it is kept in the store. A stop
    or a device without room leaves the result as it is, with a note.
    """
    # on what the strategy had kept before: by now it has this very prompt
    result, ctx = run.result, replace(run.ctx, bus=Bus(), scratch=run.before)
    assert result is not None  # noqa: S101
    if ctx.adapter.fingerprint != result.fingerprint:
        return _without(result, "the model was changed while it answered")
    try:
        picked = greedy(ctx, run.prompt)
        full, own = (follow(RequestRun(ctx, one, run.prompt, run.sampling), picked) for one in (parse("full"), served))
        floor = noise_floor(ctx, run.prompt, picked, full)
    except Stopped:
        return _without(result, "stopped")
    except Exception as error:
        if not lacks_memory(error):
            raise
        return _without(result, "there is not enough memory")
    found = fidelity(full, own, floor)
    if not served.exact:
        learn_kl(ctx.verdicts, result.fingerprint, served.spec, found.kl)
    return replace(result, fidelity=found)


def greedy(ctx: Context, prompt: Prompt, most: int = _GREEDY, strategy: Strategy | str = "full") -> list[int]:
    """Return a strategy's first greedy tokens after ``prompt``, ``most`` of them at most; raises ``Stopped``."""
    run = RequestRun(ctx, parse(strategy), prompt, Sampling(max_new_tokens=most), keep=False)
    for _ in run.pieces():
        pass
    assert run.result is not None  # noqa: S101
    if run.result.finish_reason == "interrupted":
        raise Stopped
    return list(run.result.token_ids)


@dataclass(kw_only=True, repr=False)
class _SplitPrefill(Strategy):
    """Full recompute whose prefill is cut in two: what it gives otherwise than full is rounding."""

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Run the first half of the prompt, then the rest on the cache it left."""
        adapter, n, rows = ctx.adapter, len(request.ids), ctx.work()
        cache, known = adapter.new_cache(n + request.max_new_tokens), adapter.capabilities
        # KV that depends on the prompt's length cannot be made in parts: there is no other way to split it
        half = known.whole(n // 2) if n <= known.stable_context else known.whole(n)
        logits = adapter.prefill(request.ids[:half], cache, work=rows)
        if known.whole(n) > half:
            logits = adapter.prefill(request.ids, cache, start=half, work=rows)
        fresh = np.full(n, Provenance.FRESH, dtype=np.uint8)
        return Prefilled(cache=cache, logits=logits, provenance=fresh, rows=rows)


def noise_floor(ctx: Context, prompt: Prompt, tokens: Sequence[int], full: torch.Tensor) -> float:
    """Return the largest mean KL, in nats, that full had to itself with its prefill split elsewhere.

    Measured on the first prompts of each model and dtype, of which ``prompt`` may be one, over full's forced ``tokens``
    (its logits ``[n, V]`` are ``full``), and remembered.
    """
    name = f"floor@{ctx.model}@{ctx.adapter.dtype}"
    known: list[float] = ctx.verdicts.get(name) or []
    if len(known) < _FLOORS:
        run = RequestRun(ctx, _SplitPrefill(), prompt, Sampling(max_new_tokens=len(tokens)), keep=False)
        known = [*known, float(kl_rows(full, follow(run, tokens)).mean())]
        ctx.verdicts.put(name, known)
    return max(known)


def _without(result: Result, why: str) -> Result:
    return replace(result, notes=(*result.notes, f"distance to full was not measured: {why}"))
