"""The faithfulness meter: how far an answer's strategy is from full on that very prompt, found out after the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from nbkv.context import Context
from nbkv.errors import BadOption
from nbkv.events import Bus
from nbkv.families.routing.kl_history import learn_kl
from nbkv.fidelity import fidelity
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt
from nbkv.result import Result
from nbkv.stopping import Stopped
from nbkv.strategy import Strategy, parse

_GREEDY = 32  # tokens of full that every strategy is asked to agree with

After = Callable[[RequestRun, Strategy], Result]


class FidelityMeter:
    """Says which requests of a session are measured: those that ask for it, and every ``every``-th (0: no others)."""

    def __init__(self, every: int) -> None:
        """Raise ``BadOption`` unless ``every`` is a whole number >= 0."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 0:
            message = f"fidelity_every={every!r} is not accepted: a whole number >= 0, 0 measures no request unasked"
            raise BadOption(message)
        self._every = every

    def after(self, number: int, *, asked: object) -> After | None:
        """Return what request ``number`` ends with, or None; raises ``BadOption`` unless ``asked`` is a bool."""
        if not isinstance(asked, bool):
            message = f"fidelity={asked!r} is not accepted: True measures the distance to full after the answer"
            raise BadOption(message)
        return measured if asked or (self._every and number % self._every == 0) else None


def measured(run: RequestRun, served: Strategy) -> Result:
    """Return ``run``'s result with KL and top-1 agreement of ``served`` against full on the same prompt.

    Both are run again for it, which no timing counts and nobody hears of; nothing of it is kept in the store. A stop
    or a device without room leaves the result as it is, with a note.
    """
    result, ctx = run.result, replace(run.ctx, bus=Bus())
    assert result is not None  # noqa: S101
    if ctx.adapter.fingerprint != result.fingerprint:
        return _without(result, "the model was changed while it answered")
    try:
        picked = greedy(ctx, run.prompt)
        full, own = (follow(RequestRun(ctx, one, run.prompt, run.sampling), picked) for one in (parse("full"), served))
    except Stopped:
        return _without(result, "stopped")
    except torch.OutOfMemoryError:
        return _without(result, "the device is out of memory")
    found = fidelity(full, own)
    if not served.exact:
        learn_kl(ctx.verdicts, result.fingerprint, served.spec, found.kl)
    return replace(result, fidelity=found)


def greedy(ctx: Context, prompt: Prompt) -> list[int]:
    """Return the first greedy tokens of full after ``prompt``; raises ``Stopped``."""
    run = RequestRun(ctx, parse("full"), prompt, Sampling(max_new_tokens=_GREEDY), keep=False)
    for _ in run.pieces():
        pass
    assert run.result is not None  # noqa: S101
    if run.result.finish_reason == "interrupted":
        raise Stopped
    return list(run.result.token_ids)


def _without(result: Result, why: str) -> Result:
    return replace(result, notes=(*result.notes, f"distance to full was not measured: {why}"))
