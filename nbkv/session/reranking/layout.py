"""The prompt that documents are ranked with: documents one behind another, then the query (arXiv 2410.02642)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkv.context import Context
from nbkv.errors import BadPrompt
from nbkv.kv import Span
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk
from nbkv.session.arguments import built_prompt

BEFORE = "Here are some paragraphs:"
"""Stands before the documents, as in the release of the paper."""
ANSWER = "Please answer the following question based on the information in the paragraphs above."
"""Its instruction behind the documents for questions."""
FIND = "Please find information that are relevant to the following query in the paragraphs above."
"""Its instruction for other queries."""
NEUTRAL = "N/A"
"""The content-free query of the calibration."""


@dataclass(frozen=True)
class RankingPrompt:
    """Documents and one query: as they were ``given``, and as token ids."""

    given: PromptLike
    prompt: Prompt

    @property
    def ids(self) -> tuple[int, ...]:
        """Return all token ids."""
        return self.prompt.ids

    @property
    def spans(self) -> list[Span]:
        """Return where each document's own tokens stand."""
        return [Span(start, stop) for _, start, stop in self.prompt.chunks]

    @property
    def context(self) -> int:
        """Return how many tokens there are up to the end of the last document; what is behind them is the query's."""
        return self.spans[-1].stop


def ranking_prompt(documents: Sequence[Chunk], query: str, instruction: str, ctx: Context) -> RankingPrompt:
    """Return the prompt with ``documents`` numbered in the order given; one message where there is a chat template.

    Raises ``BadPrompt`` where it does not fit, also where KV would depend on its length.
    """
    parts: list[str | Chunk] = [BEFORE]
    for number, document in enumerate(documents, 1):
        parts += [f"\n\n[{number}] ", document]
    parts.append(f"\n\n{instruction}\n\nQuery: {query}")
    given: PromptLike = [{"role": "user", "content": parts}] if ctx.codec.has_template else parts
    prompt, stable = built_prompt(given, None, {}, ctx), ctx.adapter.capabilities.stable_context
    if len(prompt.ids) > stable:
        message = f"{len(prompt.ids)} tokens are too many to rank: beyond {stable} this model's KV depend on the length"
        raise BadPrompt(message)
    return RankingPrompt(given, prompt)
