"""What a caller asked for, read and refused where it cannot be: the strategy, how to sample, the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import NamedTuple, ParamSpec, TypeVar

from nbkv.context import Context
from nbkv.errors import BadOption, BadPrompt, UnknownName, UnsupportedModel, closest
from nbkv.models.sampling import Sampling, sampling
from nbkv.prompts.chat_template import template_options
from nbkv.prompts.earlier import with_runs
from nbkv.prompts.passage_order import reordered
from nbkv.prompts.prompt import Prompt, PromptLike, build, matched
from nbkv.result import Chunk, Result
from nbkv.session.misses.past import WINDOW, Seen
from nbkv.show.units import plural
from nbkv.strategy import Strategy, parse

TEMPLATE = {
    "template_kwargs": (None, "Mapping[str, object] | None"),
    "continue_final_message": (False, "bool"),
}
_MATCHES = ("auto", "earlier")
P = ParamSpec("P")
R = TypeVar("R")


def spells_out_sampling(method: Callable[P, R]) -> Callable[P, R]:
    """Write the options of sampling into the signature of ``method`` in place of its ``**options``.

    So completion and ``?`` show them, and those of the chat template; they are read by ``wanted_sampling`` and
    ``built_prompt`` all the same.
    """
    written = inspect.signature(method)
    own = [each for each in written.parameters.values() if each.kind is not each.VAR_KEYWORD]
    known = {each.name for each in own}
    defaults = {field.name: (None if field.name == "stop" else field.default, field.type) for field in fields(Sampling)}
    defaults |= TEMPLATE
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (default, kind) in defaults.items()
        if name not in known
    ]
    method.__signature__ = written.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return method


class RequestArguments(NamedTuple):
    """What a call asks for beside its prompt and how it samples; ``strategy`` None is the session's own."""

    strategy: str | Strategy | None
    stop: str | Sequence[str] | None
    match: str | None
    order: str | None
    force: bool
    fidelity: bool = False
    keep: object = True


def chosen_strategy(strategy: str | Strategy, ctx: Context, *, force: object = False) -> Strategy:
    """Return ``strategy`` if ``ctx``'s model can be served by it.

    Raises ``UnknownName``, ``BadOption``, ``UnsupportedModel``; the last also if it failed its self-check on this very
    model, unless ``force``.
    """
    if not isinstance(force, bool):
        message = f"force={force!r:.60} is not accepted: True runs a strategy that failed its self-check"
        raise BadOption(message)
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
    """Return how an answer is to be drawn; raises ``BadOption`` also for what ``ctx``'s model cannot do.

    ``options`` are all that a caller gave; those about the chat template are ``built_prompt``'s.
    """
    own = {name: value for name, value in options.items() if name not in TEMPLATE}
    wanted, adapter = sampling(stop, own, tuple(TEMPLATE)), ctx.adapter
    if adapter.canvas is not None:
        adapter.canvas.check_sampling(wanted)
    if wanted.unmask is not None and adapter.capabilities.causal:
        message = f"unmask={wanted.unmask!r}: {adapter.name} decodes token by token, it masks nothing (leave it out)"
        raise BadOption(message)
    return wanted


def is_free(order: object) -> bool:
    """Return whether passages may stand in another order than given; raises ``BadOption`` for an unknown ``order``."""
    if order is not None and order != "reuse":
        message = f"order={order!r:.60} is not accepted: order is None (as given) or 'reuse' (passages may be moved)"
        raise BadOption(message)
    return order is not None


def exportable(
    chunks: Iterable[str | Chunk] | None, prefix: PromptLike | None, known: Mapping[str, Chunk], ctx: Context
) -> tuple[list[Chunk], list[tuple[str, tuple[int, ...]]]]:
    """Return the chunks to export, and the names and ids of prefixes: where nothing is asked for, all ``known`` chunks.

    Raises ``UnknownName`` and ``BadPrompt``.
    """
    every = known.values() if chunks is None and prefix is None else chunks or ()
    prefixes = [] if prefix is None else [("prefix", _prefix_ids(prefix, ctx))]
    return [_known_chunk(each, known) for each in every], prefixes


def _known_chunk(chunk: str | Chunk, chunks: Mapping[str, Chunk]) -> Chunk:
    """Return ``chunk``, or that of ``chunks`` which it names; raises ``UnknownName``."""
    if isinstance(chunk, Chunk):
        return chunk
    if chunk not in chunks:
        message = f"unknown chunk {chunk!r}{closest(chunk, list(chunks))} (known: {', '.join(chunks) or 'none yet'})"
        raise UnknownName(message)
    return chunks[chunk]


def _prefix_ids(prompt: PromptLike, ctx: Context) -> tuple[int, ...]:
    """Return the ids of ``prompt``; of a Result those of its prompt and answer, as far as KV of them are exact."""
    if isinstance(prompt, Result):
        if prompt.fingerprint != ctx.model:
            message = "this result was made by another model, or before its adapter was switched"
            raise BadPrompt(message)
        return (*prompt.prompt_ids, *prompt.token_ids[:-1])
    return built_prompt(prompt, None, {}, ctx).ids


def none_earlier(_: Context) -> Sequence[Seen]:
    """Return no sequences: for those who would not place what is found."""
    return ()


def built_prompt(
    prompt: PromptLike,
    match: str | None,
    chunks: Mapping[str, Chunk],
    ctx: Context,
    options: Mapping[str, object] = MappingProxyType({}),
    *,
    order: str | None = None,
    earlier: Callable[[Context], Sequence[Seen]] = none_earlier,
) -> Prompt:
    """Return ``prompt`` as token ids and chunk spans; with ``match="auto"`` known ``chunks`` are found in plain text.

    With that, and with ``match="earlier"``, so are runs of the ``earlier`` sequences of the session.
    ``options`` may have ``template_kwargs`` and ``continue_final_message``, for messages. With ``order="reuse"``
    passages are moved so that the store's K/V reach further. Raises ``BadPrompt``, also for one that leaves no room for
    an answer, and ``BadOption``.
    """
    if match is not None and match not in _MATCHES:
        message = (
            f"match={match!r:.60} is not accepted: match is None or 'auto' (chunks, and spans of earlier prompts) or "
            "'earlier' (these spans alone)"
        )
        raise BadOption(message)
    free = is_free(order)
    asked = template_options(options.get("template_kwargs"), options.get("continue_final_message", False))
    built = build(ctx.codec, prompt, ctx.model, ctx.eos, asked)
    ctx.fits(len(built.ids))
    if unknown := ctx.codec.unknown(built.ids):
        of = plural(len(built.ids), "prompt token")
        note = f"the tokenizer does not know {unknown} of {of}: the model reads nothing in them"
        built = replace(built, notes=(*built.notes, note))
    if match == "auto":
        known = tuple(chunks.values())  # another thread may add one meanwhile
        built = matched(built, [chunk for chunk in known if chunk.model == ctx.model], ctx.keeps)

    def stored(ids: Sequence[int]) -> int:
        return ctx.store.holds(ctx.space(), ids)

    if free:
        built = reordered([built], stored)[0]
    if match is not None and ctx.adapter.capabilities.causal and ctx.adapter.capabilities.relocation:
        built = with_runs(built, earlier(ctx), stored, ctx.model, WINDOW)
    return built
