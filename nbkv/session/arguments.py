"""What a caller asked for, read and refused where it cannot be: the strategy, how to sample, the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nbkv.context import Context
from nbkv.errors import BadOption, BadPrompt, UnknownName, UnsupportedModel, closest
from nbkv.models.sampling import Sampling, sampling
from nbkv.prompts.prompt import Prompt, PromptLike, build, matched
from nbkv.result import Chunk, Result
from nbkv.strategy import Strategy, parse


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
    return built_prompt(prompt, None, (), ctx).ids


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
