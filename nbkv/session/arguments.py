"""What a caller asked for, read and refused where it cannot be: the strategy, how to sample, the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nbkv.context import Context
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.models.sampling import Sampling, sampling
from nbkv.prompts.passage_order import reordered
from nbkv.prompts.prompt import Prompt, PromptLike, build, matched
from nbkv.result import Chunk
from nbkv.strategy import Strategy, parse


class RequestArguments(NamedTuple):
    """What a call asks for beside its prompt and how it samples; ``strategy`` None is the session's own."""

    strategy: str | Strategy | None
    stop: str | Sequence[str] | None
    match: str | None
    order: str | None
    force: bool
    fidelity: bool = False


def chosen_strategy(strategy: str | Strategy, ctx: Context, *, force: bool = False) -> Strategy:
    """Return ``strategy`` if ``ctx``'s model can be served by it.

    Raises ``UnknownName``, ``BadOption``, ``UnsupportedModel``; the last also if it failed its self-check on this very
    model, unless ``force``.
    """
    chosen = parse(strategy)
    chosen.check(ctx.adapter)
    failed = None if force else ctx.verdicts.get(verdict_name(chosen, ctx))
    if failed:
        message = (
            f"{chosen.spec} failed its self-check on {ctx.adapter.name} ({failed}); force=True runs it all the same"
        )
        raise UnsupportedModel(message)
    return chosen


def verdict_name(strategy: Strategy, ctx: Context) -> str:
    """Return under which name the self-check of ``strategy`` on ``ctx``'s model is remembered."""
    return f"{strategy.spec}@{ctx.model}"


def wanted_sampling(stop: str | Sequence[str] | None, options: Mapping[str, object], ctx: Context) -> Sampling:
    """Return how an answer is to be drawn; raises ``BadOption`` also for what ``ctx``'s model cannot do."""
    wanted, adapter = sampling(stop, dict(options)), ctx.adapter
    if adapter.canvas is not None:
        adapter.canvas.check_sampling(wanted)
    if wanted.unmask is not None and adapter.capabilities.causal:
        message = f"unmask={wanted.unmask!r}: {adapter.name} decodes token by token, it masks nothing (leave it out)"
        raise BadOption(message)
    return wanted


def is_free(order: str | None) -> bool:
    """Return whether passages may stand in another order than given; raises ``BadOption`` for an unknown ``order``."""
    if order not in {None, "reuse"}:
        message = f"order={order!r} is not accepted: order is None (as given) or 'reuse' (passages may be moved)"
        raise BadOption(message)
    return order is not None


def built_prompt(
    prompt: PromptLike, match: str | None, chunks: Iterable[Chunk], ctx: Context, order: str | None = None
) -> Prompt:
    """Return ``prompt`` as token ids and chunk spans; with ``match="auto"`` known ``chunks`` are found in plain text.

    With ``order="reuse"`` passages are moved so that the store's K/V reach further. Raises ``BadPrompt``, also for one
    that leaves no room for an answer, and ``BadOption``.
    """
    if match not in {None, "auto"}:
        message = f"match={match!r} is not accepted: match is None or 'auto'"
        raise BadOption(message)
    free = is_free(order)
    built = build(ctx.codec, prompt, ctx.model, ctx.eos)
    ctx.fits(len(built.ids))
    if match is not None:
        built = matched(built, [chunk for chunk in chunks if chunk.model == ctx.model], ctx.keeps)
    return reordered([built], lambda ids: ctx.store.holds(ctx.space(), ids))[0] if free else built
