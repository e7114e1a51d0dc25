"""A conversation: every turn is appended to the very token ids of the turns before, so that their KV can be reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from nbkv.errors import BadOption, BadPrompt
from nbkv.prompts.chat_template import template_options
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of

if TYPE_CHECKING:
    from nbkv.models.adapter import ModelAdapter

Part = str | Chunk | Result
Content = Part | Sequence[Part]
_ACCEPTED = "text, a chunk, a Result, or a list of these"


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


@dataclass(frozen=True)
class Turn:
    """What one ``role`` said, in parts; what the model said are its Results."""

    role: str
    parts: tuple[Any, ...]


class Chat:
    """Turns of user and assistant; answers are kept as the token ids that were decoded, never tokenised again.

    With a chat template the turns are messages; without one they are parts of one text, nothing between them.
    """

    def __init__(self, session: Answering, system: Content | None, template_kwargs: Mapping[str, Any] | None) -> None:
        """Use ``Session.chat`` instead."""
        self._session = session
        opening = [] if system is None else [Turn("system", _parts(system, "the system message"))]
        self._turns: tuple[Turn, ...] = tuple(opening)
        self._variables = deepcopy(dict(template_options(template_kwargs, continue_final_message=False).variables))
        if self._variables and not session.has_template:
            message = "template_kwargs are for the chat template, and this tokenizer has none (leave them out)"
            raise BadOption(message)
        self.results: list[Result] = []

    def send(
        self,
        prompt: Content | None = None,
        *,
        prefill: str | None = None,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401  (as ``generate`` takes them)
    ) -> Result:
        """Ask ``prompt`` (text, a chunk, or a list of them) with the whole conversation before it; return the Result.

        ``prefill`` is what the answer shall begin with. Without a prompt, ``continue_final_message`` goes on with the
        last answer, where that has not ended by itself. ``template_kwargs`` go to the chat template, in this turn only.
        A turn that fails or is interrupted leaves the conversation as it was. Other options are those of ``generate``.
        """
        turns = self._asked(prompt, prefill, continue_final_message)
        said = turns[-1].role == "assistant"
        if self._session.has_template:
            given = template_options(template_kwargs, continue_final_message=False).variables
            options |= {"template_kwargs": self._variables | dict(given), "continue_final_message": said}
        elif template_kwargs is not None:
            options["template_kwargs"] = template_kwargs  # which is refused there, in the same words
        result = self._session.generate(self._prompt(turns), **options)
        if result.finish_reason != "interrupted":
            before = turns[-1].parts if said else ()
            answer = Turn("assistant", (*before, result))
            self._turns = (*(turns[:-1] if said else turns), answer)
            self.results.append(result)
        return result

    def _asked(self, prompt: object, prefill: object, more: object) -> tuple[Turn, ...]:
        """Return the turns with what is asked now: the last one is the user's, or what the answer goes on with."""
        if not isinstance(more, bool):
            message = f"continue_final_message={more!r:.60} is not accepted: True goes on with the last answer"
            raise BadOption(message)
        if more:
            if prompt is not None or prefill is not None:
                message = "continue_final_message goes on with the last answer (leave prompt and prefill out)"
                raise BadOption(message)
            return self._unfinished()
        parts = _parts(prompt, "the turn")
        if not any(isinstance(part, (Chunk, Result)) or part for part in parts):
            message = f"the turn is empty (accepted: {_ACCEPTED})"
            raise BadPrompt(message)
        turns = (*self._turns, Turn("user", parts))
        if prefill is None:
            return turns
        if not isinstance(prefill, str) or not prefill:
            message = f"prefill={prefill!r:.60} is not accepted: prefill is the text that the answer begins with"
            raise BadOption(message)
        return (*turns, Turn("assistant", (prefill,)))

    def _unfinished(self) -> tuple[Turn, ...]:
        if not self._turns or self._turns[-1].role != "assistant":
            message = "there is no answer to go on with yet (send a prompt first)"
            raise BadPrompt(message)
        if self.results[-1].finish_reason != "length":
            message = "the last answer has ended by itself: there is nothing to go on with (send a prompt)"
            raise BadPrompt(message)
        return self._turns

    def _prompt(self, turns: Sequence[Turn]) -> list[Any]:
        """Return ``turns`` as messages, or as parts; answers stay their ids also after the model was changed."""
        model = self._session.adapter.fingerprint
        contents = [[_verbatim(part, model, turn) for part in turn.parts] for turn in turns]
        if self._session.has_template:
            return [{"role": turn.role, "content": parts} for turn, parts in zip(turns, contents, strict=True)]
        return [part for parts in contents for part in parts if part != ""]


def _parts(content: object, what: str) -> tuple[Part, ...]:
    """Return ``content`` in parts, a copy that nobody else can change."""
    if isinstance(content, (str, Chunk, Result)):
        return (content,)
    if not isinstance(content, (list, tuple)):
        message = f"{what} is {kind_of(content)} (accepted: {_ACCEPTED})"
        raise BadPrompt(message)
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            continue
        if not isinstance(part, (str, Chunk, Result)):
            message = f"a part of {what} is {kind_of(part)} (accepted: {_ACCEPTED})"
            raise BadPrompt(message)
    return tuple(str(part["text"]) if isinstance(part, Mapping) else part for part in content)


def _verbatim(part: Part, model: str, turn: Turn) -> Part:
    """Return a part of ``turn``; what the model said is its ids, whatever ``model`` it is by now."""
    if turn.role == "assistant" and isinstance(part, Result):
        return replace(part.chunk("answer"), model=model)
    return part
