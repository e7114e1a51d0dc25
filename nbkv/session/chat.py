"""A conversation: every turn is appended to the very token ids of the turns before, so that their KV can be reused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from nbkv import show
from nbkv.errors import BadOption, BadPrompt
from nbkv.result import Chunk, Result
from nbkv.session.arguments import spells_out_sampling
from nbkv.session.stream import Stream
from nbkv.show.units import plural

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

    def stream(self, prompt: Any, **options: Any) -> Stream:  # noqa: ANN401  (as sessions have it)
        """Run ``prompt`` and give the answer piece by piece."""

    def full_ttft_s(self, tokens: int) -> float | None:
        """Return the seconds to the first token that ``full`` takes for so many prompt tokens."""


class Chat:
    """Turns of user and assistant; answers are kept as the token ids that were decoded, never tokenised again.

    With a chat template the turns are messages; without one they are parts of one text, nothing between them.
    """

    def __init__(self, session: Answering, system: str | None) -> None:
        """Use ``Session.chat`` instead."""
        self._session = session
        self._messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.results: list[Result] = []

    @spells_out_sampling
    def send(self, prompt: Content | Sequence[Content], **options: Any) -> Result:  # noqa: ANN401  (as ``generate`` takes them)
        """Ask ``prompt`` (text, a chunk, or a list of them) with the whole conversation before it; return the Result.

        A turn that fails or is interrupted leaves the conversation as it was. Options are those of ``generate``.
        """
        result = self.stream(prompt, **options).exhaust()
        if result.finish_reason != "interrupted":
            self.keep(prompt, result)
        return result

    @spells_out_sampling
    def stream(self, prompt: Content | Sequence[Content], **options: Any) -> Stream:  # noqa: ANN401  (as above)
        """Ask ``prompt`` like ``send``, for an answer that comes piece by piece; ``keep`` makes it part of the chat."""
        if not prompt:
            message = "the turn is empty (accepted: text, a chunk, or a list of both)"
            raise BadPrompt(message)
        asked = [*self._answers_again(), {"role": "user", "content": prompt}]
        return self._session.stream(self._prompt(asked), **options)

    def keep(self, prompt: Content | Sequence[Content], result: Result) -> None:
        """Make ``prompt`` and its answer a turn, with which all later ones begin."""
        self._messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": result}]
        self.results.append(result)

    def rewind(self, turn: int) -> None:
        """Forget turn ``turn``, counted from 1, and all after it: what is asked next takes its place.

        Raises ``BadOption`` where there is no such turn.
        """
        if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= len(self.results):
            message = f"no turn {turn!r} (this chat has {plural(len(self.results), 'turn')}, the first is 1)"
            raise BadOption(message)
        later = 2 * (len(self.results) - turn + 1)
        del self._messages[-later:], self.results[turn - 1 :]

    def to_dict(self) -> dict[str, Any]:
        """Return the conversation as JSON-able data; ``turns`` has one dict a turn.

        ``asked`` is its text, ``answer`` the Result, ``full_s`` about the seconds to the first token that ``full``
        would take for the same prompt, in proportion to the longest one that this session has computed whole, and
        ``saved_s`` what reuse spared of them; None where none is long enough, ``saved_s`` 0 where nothing was reused.
        """
        asked = [_text(message["content"]) for message in self._messages if message["role"] == "user"]
        system = self._messages[0]["content"] if self._messages and self._messages[0]["role"] == "system" else None
        turns = [self._turn(text, result) for text, result in zip(asked, self.results, strict=True)]
        return {"kind": "chat", "system": None if system is None else _text(system), "turns": turns}

    def __repr__(self) -> str:
        """Return the conversation as text, with what reuse has saved."""
        return show.chat_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.chat_html(self.to_dict())

    def _turn(self, asked: str, result: Result) -> dict[str, Any]:
        full_s = self._session.full_ttft_s(len(result.prompt_ids))
        saved_s = None if full_s is None else full_s - result.timing.ttft_s
        return {
            "asked": asked,
            "answer": result.to_dict(),
            "exact": result.lineage == "exact",
            "full_s": full_s,
            "saved_s": saved_s if result.tokens.reused else 0.0,
        }

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


def _text(content: Content | Sequence[Content]) -> str:
    parts = [content] if isinstance(content, (str, Chunk, Result)) else content
    return "".join(part if isinstance(part, str) else part.text for part in parts)
