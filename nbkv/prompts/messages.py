"""Messages become token ids: by the chat template on their real text, with chunks put in where they stand.

What the template writes and what the messages say is one text, tokenised as transformers does, but for two things: a
chunk is its own token ids, and a control word that somebody spelled out in a message is ordinary text. Both are hidden
from the template behind marks, and put back where it wrote these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbkv.errors import BadPrompt
from nbkv.prompts.chat_template import ChatTemplate, TemplateOptions
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of

_CONTENT = 'text, a chunk, a Result, or a list of these and {"type": "text", "text": …}'
_SHAPES: tuple[Callable[[str], str], ...] = (  # in which a template may write a text that it was given
    str,
    str.strip,
    str.rstrip,
    str.lstrip,
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
)

Content = tuple[str | Chunk, ...]


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt: the template's ``text``, or a chunk, or text of a message that must stay ordinary."""

    value: str | Chunk
    ordinary: bool = False


@dataclass(frozen=True)
class Message:
    """A message as it was given, but for its ``content``, which is in parts; None where there is none."""

    fields: Mapping[str, Any]
    content: Content | None
    listed: bool  # it was given as a list of dicts, as some templates read it

    @property
    def system(self) -> str:
        """Return its text if it is a system message of text alone; empty for all others."""
        whole = [part for part in self.content or () if isinstance(part, str)]
        plain = self.fields["role"] == "system" and len(whole) == len(self.content or ()) == 1
        return whole[0] if plain else ""

    @property
    def spoken(self) -> bool:
        """Return whether the model itself said it: words that it writes are its own there."""
        return bool(self.fields["role"] == "assistant")


def read(messages: Sequence[object]) -> list[Message]:
    """Return ``messages`` with their contents in parts; raises ``BadPrompt`` for what is no message."""
    return [_message(message, number) for number, message in enumerate(messages, start=1)]


def said(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what the messages say, text by text, without their roles: all but what a template writes."""
    texts = [[*_texts(message)[:-1], *_others(message).values()] for message in messages]
    return tuple(text for text in _strings(texts) if text)


def pieces(
    template: ChatTemplate, messages: Sequence[Message], options: TemplateOptions
) -> tuple[list[Piece], list[str]]:
    """Return what ``template`` makes of ``messages``, in pieces, and notes for the result.

    Raises ``BadPrompt`` if the template refuses the messages, or leaves a chunk of the last one out.
    """
    marks = _Marks(messages, options)
    view = _View(template, marks)
    shown = view.render(messages, options, hide=False)
    hidden = view.render(messages, options, hide=True) if view.dangerous else shown
    notes: list[str] = []
    if hidden != shown:
        hidden, same = marks.aligned(hidden, shown)
        if not same:
            notes.append(
                "the chat template reads what the messages say, but not here, where they spell its control words: "
                "their text is written as it stands"
            )
    if marks.chunks and not _same_with_texts(marks, shown, view, messages, options):
        notes.append(
            "the chat template would write the text of chunks or answers in another way than their tokens have it "
            "(it strips reasoning or space, or escapes); tokens are kept as they are"
        )
    if missing := marks.missing(hidden, len(messages) - 1):
        what = "an earlier answer or chunk" if missing == 1 else f"{missing} earlier answers or chunks"
        notes.append(f"the chat template leaves {what} out of this prompt")
    return [piece for piece in marks.split(hidden) if piece.value], notes


class _Marks:
    """Stands in for parts of messages where the template must not see them; a mark is in none of the texts."""

    def __init__(self, messages: Sequence[Message], options: TemplateOptions) -> None:
        self.parts: list[Piece] = []
        self._names: dict[tuple[object, ...], str] = {}
        said = "\0".join(_strings([[_texts(message) for message in messages], options.variables]))
        self._word = next(word for n in range(len(said) + 2) if (word := f"NBKV{'Q' * n}PART") not in said)
        self._found = re.compile(f"({self._word}[0-9]+X)")
        self.chunks: dict[str, object] = {}  # by mark: the number of the message

    def mark(self, place: tuple[object, ...], piece: Piece) -> str:
        """Return the mark of ``piece`` at ``place``, the same whenever it is asked for."""
        if place not in self._names:
            self._names[place] = f"{self._word}{len(self.parts)}X"
            self.parts.append(piece)
            if isinstance(piece.value, Chunk):
                self.chunks[self._names[place]] = place[0]
        return self._names[place]

    def split(self, text: str) -> Iterator[Piece]:
        """Yield the pieces of ``text``, marks as what they stand for."""
        for number, part in enumerate(self._found.split(text)):
            yield self._piece(part) if number % 2 else Piece(part)

    def filled(self, text: str) -> str:
        """Return ``text`` with chunks as their text and without the marks between parts."""
        return "".join(
            piece.value.text if isinstance(piece.value, Chunk) else piece.value for piece in self.split(text)
        )

    def missing(self, text: str, last: int) -> int:
        """Return how many chunks ``text`` has no mark of; raises ``BadPrompt`` if message ``last`` has one of them."""
        gone = self.chunks.keys() - set(self._found.findall(text))
        if any(self.chunks[name] == last for name in gone):
            message = "the chat template leaves a chunk of the last message out; write the prompt as a list of parts"
            raise BadPrompt(message)
        return len(gone)

    def aligned(self, hidden: str, shown: str) -> tuple[str, bool]:
        """Return ``hidden`` with its texts as the template wrote them in ``shown``; False if it wrote something else.

        Their parts become what was written: stripped, perhaps, or as JSON.
        """
        found = self._found.split(hidden)
        loose = [number for number in range(1, len(found), 2) if self._piece(found[number]).ordinary]
        pattern = "".join(
            f"({'|'.join(dict.fromkeys(re.escape(shape(str(self._piece(part).value))) for shape in _SHAPES))})"
            if number in loose
            else re.escape(part)
            for number, part in enumerate(found)
        )
        match = re.fullmatch(pattern, shown)
        if match is None:
            return hidden, False
        for number, written in zip(loose, match.groups(), strict=True):
            found[number] = self.mark(("aligned", number), Piece(written, ordinary=True))
        return "".join(found), True

    def _piece(self, mark: str) -> Piece:
        return self.parts[int(mark[len(self._word) : -1])]


class _View:
    """What the template is shown of messages; ``dangerous`` turns true where a control word was spelled out in one."""

    def __init__(self, template: ChatTemplate, marks: _Marks) -> None:
        self._template, self._marks = template, marks
        self.dangerous = False

    def render(
        self, messages: Sequence[Message], options: TemplateOptions, *, hide: bool, chunks_as_text: bool = False
    ) -> str:
        """Return what the template writes; with ``hide`` texts with control words are marks."""
        given = [self._given(at, message, hide, chunks_as_text) for at, message in enumerate(messages)]
        variables = self._covered(("variables",), options.variables, hide, self._template.control)
        return self._template.render(given, TemplateOptions(variables, options.continue_final))

    def _given(self, at: int, message: Message, hide: bool, chunks_as_text: bool) -> dict[str, Any]:  # noqa: FBT001
        control = self._template.special if message.spoken else self._template.control
        others = _others(message)
        given = {"role": message.fields["role"], **self._covered((at,), others, hide, control)}
        if message.content is None:
            return given | ({"content": None} if "content" in message.fields else {})
        texts: list[str] = []
        for number, part in enumerate(message.content):
            place = (at, "content", number)
            if isinstance(part, Chunk):
                texts.append(part.text if chunks_as_text else self._marks.mark(place, Piece(part)))
            else:
                texts.append(self._covered(place, part, hide, control))
        if self._template.lists and (message.listed or not self._template.strings):
            return given | {"content": [{"type": "text", "text": text} for text in texts]}
        for number in range(len(texts) - 1, 0, -1):  # parts are tokenised one by one
            if not isinstance(message.content[number], Chunk) and not isinstance(message.content[number - 1], Chunk):
                texts.insert(number, self._marks.mark((at, "border", number), Piece("")))
        return given | {"content": "".join(texts)}

    def _covered(self, place: tuple[object, ...], value: Any, hide: bool, control: re.Pattern[str]) -> Any:  # noqa: ANN401, FBT001  (any JSON)
        """Return ``value`` with the texts in it that have control words as marks, if these are to be hidden."""
        if isinstance(value, str):
            if not control.search(value):
                return value
            self.dangerous = True
            return self._marks.mark(place, Piece(str(value), ordinary=True)) if hide else value
        if isinstance(value, Mapping):
            return {name: self._covered((*place, name), each, hide, control) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._covered((*place, at), each, hide, control) for at, each in enumerate(value)]
        return value


def _same_with_texts(
    marks: _Marks, shown: str, view: _View, messages: Sequence[Message], options: TemplateOptions
) -> bool:
    """Return whether the template writes around chunks what it would write around their texts."""
    try:
        real = view.render(messages, options, hide=False, chunks_as_text=True)
    except BadPrompt:
        return False
    return marks.filled(shown) == marks.filled(real)


def _message(message: object, number: int) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        what = "a dict without 'role' as text" if isinstance(message, Mapping) else kind_of(message)
        text = f"message {number} is {what} (accepted: dicts with 'role' and 'content'; content: {_CONTENT})"
        raise BadPrompt(text)
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            text = f"message {number} has no 'content' (accepted: {_CONTENT}; none only beside tool_calls)"
            raise BadPrompt(text)
        return Message(message, None, listed=False)
    if isinstance(content, (str, Chunk, Result)):
        return Message(message, (_part(content, number),), listed=False)
    if not isinstance(content, (list, tuple)):
        text = f"the content of message {number} is {kind_of(content)} (accepted: {_CONTENT})"
        raise BadPrompt(text)
    listed = any(isinstance(part, Mapping) for part in content)
    return Message(message, tuple(_part(part, number) for part in content) or ("",), listed)


def _part(part: object, number: int) -> str | Chunk:
    if isinstance(part, Result):
        return part.chunk("answer")
    if isinstance(part, (str, Chunk)):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"of type {part.get('type')!r}" if isinstance(part, Mapping) else kind_of(part)
    text = f"a part of the content of message {number} is {what} (accepted: {_CONTENT}; nbkv serves text only)"
    raise BadPrompt(text)


def _others(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.fields.items() if name not in {"role", "content"}}


def _texts(message: Message) -> list[object]:
    parts = [part.text if isinstance(part, Chunk) else part for part in message.content or ()]
    return [*parts, {name: value for name, value in message.fields.items() if name != "content"}]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
