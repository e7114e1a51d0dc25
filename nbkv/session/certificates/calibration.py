"""Measures candidates on prompts, each in a store of its own that holds nothing but the prompt's chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from tqdm.auto import tqdm

from nbkv.context import Context
from nbkv.errors import BadPrompt
from nbkv.events import Bus
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk, Result
from nbkv.session.arguments import built_prompt
from nbkv.session.certificates.candidates import CandidateSet
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.chunks import encode_chunk, tokenised_chunk
from nbkv.session.compare import compare
from nbkv.stores.base import Scratch
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Strategy
from nbkv.tasks.items import Item

Question = Item | PromptLike


_NO_LIMIT = 2**40  # bytes: of one prompt's chunks


@dataclass(frozen=True)
class Calibration:
    """What the prompts showed of full: its time to first token (s) on each, and the noise of the model (nats)."""

    ttfts: tuple[float, ...]
    floor: float


def build(questions: Iterable[Question], sink: str, ctx: Context) -> list[Prompt]:
    """Return ``questions`` as prompts; the chunks of items are to be encoded behind ``sink``.

    An item that brings an instruction is asked in one message of the user, where the model has a chat template. Raises
    ``BadPrompt``, naming the prompt by its number, and ``BadOption``.
    """
    fits = isinstance(questions, Iterable) and not isinstance(questions, (str, bytes, Mapping))
    listed = list(questions) if fits else []
    if not listed:
        message = "prompts is a list of many: items of nbkv.tasks (chunks and a question), texts, or lists of parts"
        raise BadPrompt(message)
    return [_built(question, number, sink, ctx) for number, question in enumerate(listed, start=1)]


def calibrate(
    prompts: Sequence[Prompt], tried: CandidateSet, guarantee: Guarantee, sink: str, ctx: Context
) -> Calibration:
    """Run every prompt under all that is ``tried``; a step that cannot be certified any more is left out from there on.

    What a session has in its store does not help: a prompt it has seen would be no sample of those to come.
    """
    allowed = guarantee.allowed(len(prompts), len(tried.ladders))
    known, full, floor = {one.spec: one for one in tried.strategies}, [], 0.0
    for prompt in tqdm(prompts, desc="calibration", unit="prompt"):
        in_play = [step for ladder in tried.ladders for step in ladder.in_play(guarantee.max_kl, allowed)]
        steps = [*tried.exact, *in_play]
        rows = _rows(prompt, [known[step.spec] for step in steps], sink, ctx)
        for step in steps:
            row = rows[step.spec]
            step.add(row["kl"], row["compute_share"], row["ttft_s"])
        full.append(rows["full"]["ttft_s"])
        floor = max(floor, rows["full"]["floor"])
    return Calibration(tuple(full), floor)


def _rows(prompt: Prompt, strategies: Sequence[Strategy], sink: str, ctx: Context) -> dict[str, dict[str, Any]]:
    """Return what ``strategies`` and full did on ``prompt``, in a store that holds only the chunks of it."""
    with closing(MemoryStore(limit=_NO_LIMIT)) as store:
        own = replace(ctx, store=store, bus=Bus(), scratch=Scratch())
        if own.adapter.capabilities.prefix:
            for chunk, _, _ in prompt.chunks:
                encode_chunk(chunk, sink, own)
        table = compare(own, strategies, prompt, Sampling(max_new_tokens=1), repeat=1)
    return {row["strategy"]: row for row in table.rows}


def _built(question: object, number: int, sink: str, ctx: Context) -> Prompt:
    if not isinstance(question, (Item, Chunk, Result, Sequence)):
        message = (
            f"prompt {number} is a {type(question).__name__} (accepted: an item with chunks and a question, "
            "text, a list of parts, a list of messages)"
        )
        raise BadPrompt(message)
    try:
        if isinstance(question, Item):
            chat = bool(question.instruction) and ctx.codec.has_template
            parts = [tokenised_chunk(ctx, text, f"chunk{i}", sink) for i, text in enumerate(question.chunks, start=1)]
            question = question.prompt(parts, chat=chat)
        return built_prompt(question, None, {}, ctx)
    except BadPrompt as error:
        message = f"prompt {number}: {error}"
        raise BadPrompt(message) from error
