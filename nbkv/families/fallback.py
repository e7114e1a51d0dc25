"""What a family does where it cannot reuse anything: full, and it says so."""

from __future__ import annotations

from nbkv.context import Context, Request
from nbkv.events import Fallback
from nbkv.strategy import Prefilled, Strategy

_TRAINED = "beyond its trained length this model's KV depends on the prompt's length"


def in_full(strategy: Strategy, request: Request, ctx: Context, what: str, because: str = _TRAINED) -> Prefilled:
    """Run a prompt in full that is longer than the model was trained for; an event and a note say ``what`` is not done.

    Beyond that length dynamic rotary scaling turns all keys by angles that depend on the prompt's length.
    """
    why = f"{what}: {because}"
    ctx.tell(Fallback, why=why)
    prefilled = Strategy.prefill(strategy, request, ctx)
    prefilled.notes.append(why)
    return prefilled
