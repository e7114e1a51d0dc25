"""What a caller asked for, read and refused where it cannot be: the strategy, how to sample, the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import ParamSpec, TypeVar

from nbkv.context import Context
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.models.sampling import Sampling, sampling
from nbkv.prompts.prompt import Prompt, PromptLike, build, matched
from nbkv.result import Chunk
from nbkv.strategy import Strategy, parse

P = ParamSpec("P")
R = TypeVar("R")


def spells_out_sampling(method: Callable[P, R]) -> Callable[P, R]:
    """Write the options of sampling into the signature of ``method`` in place of its ``**options``.

    So completion and ``?`` show them; they are read by ``wanted_sampling`` all the same.
    """
    written = inspect.signature(method)
    own = [each for each in written.parameters.values() if each.kind is not each.VAR_KEYWORD]
    known = {each.name for each in own}
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.name == "stop" else field.default,
            annotation=field.type,
        )
        for field in fields(Sampling)
        if field.name not in known
    ]
    method.__signature__ = written.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return method


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


def built_prompt(prompt: PromptLike, match: str | None, chunks: Iterable[Chunk], ctx: Context) -> Prompt:
    """Return ``prompt`` as token ids and chunk spans; with ``match="auto"`` known ``chunks`` are found in plain text.

    Raises ``BadPrompt``, also for one that leaves no room for an answer, and ``BadOption``.
    """
    if match not in {None, "auto"}:
        message = f"match={match!r} is not accepted: match is None or 'auto'"
        raise BadOption(message)
    built = build(ctx.codec, prompt, ctx.model, ctx.eos)
    ctx.fits(len(built.ids))
    if match is None:
        return built
    return matched(built, [chunk for chunk in chunks if chunk.model == ctx.model], ctx.keeps)
