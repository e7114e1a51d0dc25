"""Measures candidates on prompts, each in a store of its own that holds nothing but the prompt's chunks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from nbkv.context import Context
from nbkv.errors import BadPrompt
from nbkv.events import Bus
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk, Result
from nbkv.session.arguments import built_prompt
from nbkv.session.certificates.candidates import CandidateSet
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.compare import ComparisonRun
from nbkv.session.encoding.chunks import encode_chunk, tokenised_chunk
from nbkv.show.units import plural
from nbkv.stores.base import Scratch
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Strategy
from nbkv.tasks.items import Item
from nbkv.timing import settle, timed

Question = Item | PromptLike


_NO_LIMIT = 2**40  # bytes: of one prompt's chunks


class Calibration:
    """The prompts run one after another: ``tried`` learns of its steps, and what full did is kept here.

    ``ttfts`` are full's times to first token (s), ``floor`` is the noise of the model (nats). What a session has in its
    store does not help: a prompt it has seen would be no sample of those to come.
    """

    def __init__(
        self, prompts: Sequence[Prompt], tried: CandidateSet, guarantee: Guarantee, sink: str, ctx: Context
    ) -> None:
        """Run nothing yet."""
        self.prompts, self.tried, self.guarantee = prompts, tried, guarantee
        self._sink, self._ctx = sink, ctx
        self.ttfts: list[float] = []
        self.floor = 0.0

    @property
    def allowed(self) -> int:
        """Return how many prompts may be above the bound."""
        return self.guarantee.allowed(len(self.prompts), len(self.tried.ladders))

    def steps(self) -> Generator[str]:
        """Run each prompt under all that is tried; a step that cannot be certified any more is left out from there on.

        Before each yield which prompt it is.
        """
        known, max_kl = {one.spec: one for one in self.tried.strategies}, self.guarantee.max_kl
        for number, prompt in enumerate(self.prompts, start=1):
            in_play = [step for each in self.tried.ladders for step in each.in_play(max_kl, self.allowed)]
            steps = [*self.tried.exact, *in_play]
            yield f"prompt {number} of {len(self.prompts)}, {plural(len(steps), 'strategy', 'strategies')}"
            rows = first_requests(prompt, [known[step.spec] for step in steps], self._sink, self._ctx).rows
            for step in steps:
                row = rows[step.spec]
                step.add(row["kl"], row["compute_share"], row["ttft_s"])
            self.ttfts.append(rows["full"]["ttft_s"])
            self.floor = max(self.floor, rows["full"]["floor"])


def listed(questions: Iterable[Question]) -> list[Question]:
    """Return ``questions`` as a list; raises ``BadPrompt`` where there are none."""
    fits = isinstance(questions, Iterable) and not isinstance(questions, (str, bytes, Mapping))
    found = list(questions) if fits else []
    if not found:
        message = "prompts is a list of many: items of nbkv.tasks (chunks and a question), texts, or lists of parts"
        raise BadPrompt(message)
    return found


def build(questions: Sequence[Question], sink: str, ctx: Context) -> list[Prompt]:
    """Return ``questions`` as prompts; the chunks of items are to be encoded behind ``sink``.

    An item that brings an instruction is asked in one message of the user, where the model has a chat template. Raises
    ``BadPrompt``, naming the prompt by its number, and ``BadOption``.
    """
    return [_built(question, number, sink, ctx) for number, question in enumerate(questions, start=1)]


@dataclass(frozen=True)
class FirstRequests:
    """What strategies did on a prompt that no store had seen: rows of a comparison by strategy, ``full`` among them.

    Its chunks took ``encode_s`` seconds to be encoded, and their KV ``nbytes``.
    """

    rows: dict[str, dict[str, Any]]
    encode_s: float
    nbytes: int


def first_requests(prompt: Prompt, strategies: Sequence[Strategy], sink: str, ctx: Context) -> FirstRequests:
    """Run ``strategies`` and full on ``prompt``, in a store that holds only the chunks of it."""
    with closing(MemoryStore(limit=_NO_LIMIT)) as store:
        own, clock = replace(ctx, store=store, scratch=Scratch(), bus=Bus()), timed()
        if own.adapter.capabilities.prefix:
            for chunk, _, _ in prompt.chunks:
                encode_chunk(chunk, sink, own)
        settle(own.adapter)
        encode_s, nbytes = clock(), sum(int(tier["bytes"]) for tier in store.figures())
        run = ComparisonRun(own, strategies, prompt, Sampling(max_new_tokens=1), repeat=1)
        for _ in run.steps():  # one prompt is one step of the whole
            pass
    return FirstRequests({row["strategy"]: row for row in run.table().rows}, encode_s, nbytes)


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
