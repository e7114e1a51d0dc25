"""A conversation: every turn is appended to the very token ids of the turns before, so that their KV can be reused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from nbkv.errors import BadPrompt
from nbkv.result import Chunk, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbkv.models.adapter import ModelAdapter

Content = str | Chunk | Result


class Answering(Protocol):
    """What a conversation asks: a session."""

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model."""

    @property
    def has_template(self) -> bool:
        """Return whether prompts can be messages."""

    def generate(self, prompt: Any, **options: Any) -> Result:  # noqa: ANN401  (as sessions have it)
        """Run ``prompt`` and return the answer."""


class Chat:
    """Turns of user and assistant; answers are kept as the token ids that were decoded, never tokenised again.

    With a chat template the turns are messages; without one they are parts of one text, nothing between them.
    """

    def __init__(self, session: Answering, system: str | None) -> None:
        """Use ``Session.chat`` instead."""
        self._session = session
        self._messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.results: list[Result] = []

    def send(self, prompt: Content | Sequence[Content], **options: Any) -> Result:  # noqa: ANN401  (as ``generate`` takes them)
        """Ask ``prompt`` (text, a chunk, or a list of them) with the whole conversation before it; return the Result.

        A turn that fails or is interrupted leaves the conversation as it was. Options are those of ``generate``.
        """
        if not prompt:
            message = "the turn is empty (accepted: text, a chunk, or a list of both)"
            raise BadPrompt(message)
        asked = [*self._answers_again(), {"role": "user", "content": prompt}]
        result = self._session.generate(self._prompt(asked), **options)
        if result.finish_reason != "interrupted":
            self._messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": result}]
            self.results.append(result)
        return result

    def _answers_again(self) -> list[dict[str, Any]]:
        """Return the turns so far; an answer stays its ids also after the model was changed (another adapter)."""
        model = self._session.adapter.fingerprint
        return [
            message | {"content": replace(message["content"].chunk("answer"), model=model)}
            if message["role"] == "assistant"
            else message
            for message in self._messages
        ]

    def _prompt(self, messages: list[dict[str, Any]]) -> list[Any]:
        if self._session.has_template:
            return messages
        parts: list[Any] = []
        for message in messages:
            content = message["content"]
            parts.extend([content] if isinstance(content, (str, Chunk, Result)) else content)
        return parts
