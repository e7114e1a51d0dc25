"""A conversation: every turn is appended to the very token ids of the turns before, so that their KV can be reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from nbkv import show
from nbkv.errors import BadOption, BadPrompt
from nbkv.prompts.chat_template import template_options
from nbkv.prompts.thinking import without_thinking
from nbkv.result import Chunk, Result
from nbkv.scalars import is_whole
from nbkv.session.arguments import spells_out_sampling
from nbkv.session.conversation.turn import Content, Part, Turn, parts_of, words_of
from nbkv.session.stream import Stream
from nbkv.show.units import plural

if TYPE_CHECKING:
    from nbkv.models.adapter import ModelAdapter


_SPEAKERS = ("user", "assistant")


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

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token."""

    def full_ttft_s(self, tokens: int) -> float | None:
        """Return the seconds to the first token that ``full`` takes for so many prompt tokens."""


class Chat:
    """Turns of user and assistant; answers are kept as the token ids that were decoded, never tokenised again.

    With a chat template the turns are messages; without one they are parts of one text, nothing between them.
    """

    def __init__(self, session: Answering, system: Content | None, template_kwargs: Mapping[str, Any] | None) -> None:
        """Use ``Session.chat`` instead."""
        self._session = session
        opening = [] if system is None else [Turn("system", parts_of(system, "the system message"))]
        self._turns: tuple[Turn, ...] = tuple(opening)
        self._variables = deepcopy(dict(template_options(template_kwargs, continue_final_message=False).variables))
        if self._variables and not session.has_template:
            message = "template_kwargs are for the chat template, and this tokenizer has none (leave them out)"
            raise BadOption(message)

    @property
    def results(self) -> list[Result]:
        """Return the answers; one that was gone on with is two."""
        return [result for turn in self._turns for result in turn.results]

    @spells_out_sampling
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
        result = self._stream(turns, template_kwargs, options).exhaust()
        if result.finish_reason != "interrupted":
            self._keep(turns, result)
        return result

    @spells_out_sampling
    def stream(
        self,
        prompt: Content,
        *,
        prefill: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401  (as above)
    ) -> Stream:
        """Ask ``prompt`` like ``send``, for an answer that comes piece by piece; ``keep`` makes it part of the chat."""
        return self._stream(self._asked(prompt, prefill, more=False), template_kwargs, options)

    def keep(self, prompt: Content, result: Result, *, prefill: str | None = None) -> None:
        """Make ``prompt`` and its answer a turn, with which all later ones begin."""
        self._keep(self._asked(prompt, prefill, more=False), result)

    def rewind(self, turn: int) -> None:
        """Forget turn ``turn``, counted from 1, and all after it: what is asked next takes its place.

        Raises ``BadOption`` where there is no such turn.
        """
        self._turns = self._turns[: self._place(turn)]

    def edit(self, turn: int, text: Content, *, role: str = "user") -> None:
        """Put ``text`` in place of what was asked in turn ``turn``, counted from 1, and keep all turns after it.

        ``role="assistant"``: in place of that turn's answer; turn 0 is the system message. What stands behind the
        change is moved where the next turn is asked under a chunk strategy; an exact one reuses what stands before it.
        Raises ``BadOption`` where there is no such turn, ``BadPrompt`` for what is no text.
        """
        if role not in _SPEAKERS:
            message = f"role={role!r:.60} is not accepted: role is 'user' (what was asked) or 'assistant' (the answer)"
            raise BadOption(message)
        at = self._place(turn, least=0)
        parts = words_of(text, "the turn")
        if turn and role == "assistant":
            self._change({at + 1: replace(self._turns[at + 1], standing=parts)})
        else:
            self._change({at: Turn(self._turns[at].role, parts)})

    def drop_thinking(self) -> int:
        """Leave out of all prompts to come what the model thought before its answers so far, as templates do.

        That is all up to the last ``</think>`` of an answer (or a mark of that kind) and the line breaks behind it; of
        an answer what remains is its very token ids. Returns how many tokens go.
        """
        changed, dropped = {}, 0
        for at, turn in enumerate(self._turns):
            if turn.role != "assistant":
                continue
            parts = turn.verbatim(self._session.adapter.fingerprint)
            shorter = [
                without_thinking(part, self._session.pieces(part.token_ids)) if isinstance(part, Chunk) else None
                for part in parts
            ]
            if any(each is not None for each in shorter):
                left = tuple(part if each is None else each for part, each in zip(parts, shorter, strict=True))
                changed[at] = replace(turn, standing=left)
                dropped += sum(map(_tokens, parts)) - sum(map(_tokens, left))
        self._change(changed)
        return dropped

    def _place(self, turn: int, least: int = 1) -> int:
        """Return where in ``self._turns`` turn ``turn`` begins; raises ``BadOption``."""
        asked = [at for at, each in enumerate(self._turns) if each.role == "user"]
        opening = [at for at, each in enumerate(self._turns) if each.role == "system"]
        if is_whole(turn, 1) and turn <= len(asked):
            return asked[turn - 1]
        if is_whole(turn) and turn == 0 and not least and opening:
            return opening[0]
        message = f"no turn {turn!r:.60} (this chat has {plural(len(asked), 'turn')}, the first is 1)"
        raise BadOption(message)

    def _change(self, changed: Mapping[int, Turn]) -> None:
        self._turns = tuple(changed.get(at, turn) for at, turn in enumerate(self._turns))

    def to_dict(self) -> dict[str, Any]:
        """Return the conversation as JSON-able data; ``turns`` has one dict a turn.

        ``asked`` is its text, ``answer`` the Result (the last one, with the whole text, of an answer that was gone on
        with), ``full_s`` about the seconds to the first token that ``full`` would take for the same prompts, in
        proportion to the longest one that this session has computed whole, and ``saved_s`` what reuse spared of them;
        None where none is long enough, ``saved_s`` 0 where nothing was reused.
        """
        system = next((turn.text for turn in self._turns if turn.role == "system"), None)
        said = [turn for turn in self._turns if turn.role != "system"]
        turns = [self._told(asked, answer) for asked, answer in zip(said[::2], said[1::2], strict=True)]
        return {"kind": "chat", "system": system, "turns": turns}

    def __repr__(self) -> str:
        """Return the conversation as text, with what reuse has saved."""
        return show.chat_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.chat_html(self.to_dict())

    def _told(self, asked: Turn, answer: Turn) -> dict[str, Any]:
        full = [self._session.full_ttft_s(len(result.prompt_ids)) for result in answer.results]
        saved = [
            0.0 if not result.tokens.reused else None if full_s is None else full_s - result.timing.ttft_s
            for result, full_s in zip(answer.results, full, strict=True)
        ]
        return {
            "asked": asked.text,
            "answer": answer.results[-1].to_dict() | {"text": answer.text},
            "exact": all(result.lineage == "exact" for result in answer.results),
            "full_s": _sum(full),
            "saved_s": _sum(saved),
        }

    def _stream(self, turns: Sequence[Turn], template_kwargs: Any, options: dict[str, Any]) -> Stream:  # noqa: ANN401  (unread)
        if self._session.has_template:
            given = template_options(template_kwargs, continue_final_message=False).variables
            said = turns[-1].role == "assistant"
            options |= {"template_kwargs": self._variables | dict(given), "continue_final_message": said}
        elif template_kwargs is not None:
            options["template_kwargs"] = template_kwargs  # which is refused there, in the same words
        options.setdefault("match", "earlier")  # exact strategies do not look
        return self._session.stream(self._prompt(turns), **options)

    def _keep(self, turns: tuple[Turn, ...], result: Result) -> None:
        said = turns[-1].role == "assistant"
        answer = (turns[-1] if said else Turn("assistant", ())).and_then(result)
        self._turns = (*(turns[:-1] if said else turns), answer)

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
        turns = (*self._turns, Turn("user", words_of(prompt, "the turn")))
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
        contents = [turn.verbatim(model) for turn in turns]
        if self._session.has_template:
            return [{"role": turn.role, "content": parts} for turn, parts in zip(turns, contents, strict=True)]
        return [part for parts in contents for part in parts if part != ""]


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _tokens(part: Part) -> int:
    return len(part) if isinstance(part, Chunk) else 0
