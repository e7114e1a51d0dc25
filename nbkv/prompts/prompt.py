"""A prompt as a caller wrote it (text, parts, messages) becomes token ids with the token spans of its chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbkv.errors import BadOption, BadPrompt
from nbkv.prompts import matching, messages
from nbkv.prompts.chat_template import TemplateOptions
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk, Result
from nbkv.scalars import is_whole, kind_of

Part = str | Chunk | Result
Message = Mapping[str, Any]
_ACCEPTED = "text, a list of texts, chunks and Results, or a list of messages"
_NO_OPTIONS = TemplateOptions()
_ANCHOR = 16  # tokens of the window that is hashed of each chunk; shorter chunks would match by accident

PromptLike = str | Chunk | Result | Sequence[Part] | Sequence[Message]


@dataclass(frozen=True)
class Prompt:
    """Token ids ``ids [n]``, the token spans ``(chunk, start, stop)`` of chunks in order, and notes for the result.

    ``chat``: it was made of messages, so that what answers is a chat model. ``said`` are the texts of the messages,
    where a chat template wrote the rest; None: all of it was given. ``searched``: runs of tokens that earlier prompts
    of the session had may be placed as chunks are. ``system``: the text of a system message in front of all others.
    """

    ids: tuple[int, ...]
    chunks: tuple[tuple[Chunk, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    chat: bool = False
    said: tuple[str, ...] | None = None
    searched: bool = False
    system: str = ""


def build(
    codec: Codec,
    prompt: PromptLike,
    model: str,
    eos: frozenset[int],
    options: TemplateOptions = _NO_OPTIONS,
) -> Prompt:
    """Return ``prompt`` tokenised; ``model`` is the fingerprint that its chunks must have been made with.

    Text is tokenised as transformers does, parts one by one so that a chunk's ids do not depend on its neighbours, and
    messages as the chat template writes them, asked with ``options``. ``eos`` are the ids that end an answer: the
    template repeats the one that an earlier result's ids end with. Raises ``BadPrompt`` for what is no prompt, an empty
    prompt or part, a chunk of another model, messages where there is no chat template or that it refuses, and
    ``BadOption`` for ``options`` without messages.
    """
    if isinstance(prompt, str):
        _no_options(options)
        if not prompt:
            message = f"the prompt is empty (accepted: {_ACCEPTED})"
            raise BadPrompt(message)
        return Prompt(tuple(codec.whole(prompt)))
    parts = _parts(prompt)
    writer = _Writer(codec, model)
    notes: list[str] = []
    said: tuple[str, ...] | None = None
    system = ""
    if isinstance(parts[0], Mapping):
        read = messages.read(parts)
        notes, said, system = _write_messages(writer, read, eos, options), messages.said(read), read[0].system
    else:
        _no_options(options)
        writer.ids.extend(codec.bos_ids)
        for number, part in enumerate(parts):
            writer.add(part, first=number == 0)
    written = tuple(writer.ids), tuple(writer.chunks), tuple(notes)
    return Prompt(*written, chat=said is not None, said=said, system=system)


def _parts(prompt: object) -> list[object]:
    """Return ``prompt`` as a list of parts or messages; raises ``BadPrompt`` before anything is iterated."""
    if isinstance(prompt, (Chunk, Result)):
        return [prompt]
    if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray, memoryview)):
        hint = ""
        if isinstance(prompt, Mapping) and "input_ids" in prompt:
            hint = ": give the text itself, which is tokenised here"
        elif isinstance(prompt, Mapping) and "role" in prompt:
            hint = ": one message goes into a list"
        message = f"the prompt is {kind_of(prompt)}{hint} (accepted: {_ACCEPTED})"
        raise BadPrompt(message)
    if not prompt:
        message = f"the prompt is an empty list (accepted: {_ACCEPTED})"
        raise BadPrompt(message)
    return list(prompt)


def _no_options(options: TemplateOptions) -> None:
    if options.given:
        message = (
            "template_kwargs and continue_final_message are for the chat template: the prompt must be a list of "
            "messages, and the tokenizer must have one"
        )
        raise BadOption(message)


def opening(codec: Codec, system: str = "") -> tuple[int, ...]:
    """Return the ids that stand before a user's first words: the chat template's, with ``system`` or its own text.

    Without a template, those that the tokenizer puts in front of a text.
    """
    if not codec.has_template:
        return tuple(codec.bos_ids)
    mark = Chunk(name="", text="", token_ids=(0,), sink=(), model="")
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    built = build(codec, [*first, {"role": "user", "content": mark}], mark.model, frozenset())
    start = built.chunks[0][1]  # some templates write a message twice
    return built.ids[:start]


def matched(prompt: Prompt, chunks: Sequence[Chunk], held: Callable[[Chunk], bool]) -> Prompt:
    """Return ``prompt`` with the spans of those of ``chunks`` that its ids contain, as if they had been given as parts.

    The ids stay as they are. A chunk matches where all of its ids do: text that is tokenised differently where the
    chunk borders on other text does not match. Longer chunks take precedence; none overlaps another or a chunk that was
    given. Chunks of fewer than 16 tokens, and those that are not ``held`` in the store any more, are left out.
    """
    chunks = [chunk for chunk in chunks if len(chunk) >= _ANCHOR]
    ids, known = np.array(prompt.ids), [np.array(chunk.token_ids) for chunk in chunks]
    hashed = [matching.rolling_hashes(each[:_ANCHOR], _ANCHOR) for each in known]
    found = matching.find_matches(ids, known, hashed, _ANCHOR)
    wholes = [match for match in found if match.length == len(known[match.which]) and held(chunks[match.which])]
    taken = np.zeros(len(ids), dtype=np.bool_)
    for _, start, stop in prompt.chunks:
        taken[start:stop] = True
    spans = [
        (chunks[match.which], match.at, match.at + match.length)
        for match in matching.without_overlap(wholes, taken, _ANCHOR, whole=True)
    ]
    every = sorted((*prompt.chunks, *spans), key=lambda span: span[1])
    note = f"matched {len(spans)} chunk{'s' * (len(spans) != 1)} in the text"
    return replace(prompt, chunks=tuple(every), notes=(*prompt.notes, note))


class _Writer:
    """Collects the ids and the chunk spans of a prompt, part by part."""

    def __init__(self, codec: Codec, model: str) -> None:
        self.codec, self.model = codec, model
        self.ids: list[int] = []
        self.chunks: list[tuple[Chunk, int, int]] = []

    def add(self, part: object, *, first: bool) -> None:
        if isinstance(part, Result):
            part = part.chunk("answer")
        if isinstance(part, Chunk):
            if part.model != self.model:
                message = f"chunk {part.name!r} was made by another model; make it again with this session's chunk()"
                raise BadPrompt(message)
            self.chunks.append((part, len(self.ids), len(self.ids) + len(part)))
            self.ids.extend(part.token_ids)
        elif isinstance(part, str):
            if not part:
                message = "a part of the prompt is empty text (leave it out, or give it words)"
                raise BadPrompt(message)
            self.ids.extend(self.codec.part(part, first=first))
        else:
            hint = ": a prompt is text, not token ids" if is_whole(part) else ""
            message = f"a part of the prompt is {kind_of(part)}{hint} (accepted: str, chunk, Result)"
            raise BadPrompt(message)


def _write_messages(
    writer: _Writer, read: Sequence[messages.Message], eos: frozenset[int], options: TemplateOptions
) -> list[str]:
    """Write what the chat template makes of the messages that were ``read``; return notes for the result."""
    template = writer.codec.chat_template
    if template is None:
        message = "this tokenizer has no chat template (accepted: text or a list of parts)"
        raise BadPrompt(message)
    found, notes = messages.pieces(template, read, options)
    if not found:
        message = "the chat template makes nothing of these messages"
        raise BadPrompt(message)
    bos, begins = writer.codec.tokenizer.bos_token, found[0].value
    if not (bos and isinstance(begins, str) and begins.startswith(bos)):
        writer.ids.extend(writer.codec.bos_ids)
    behind_chunk = False
    for number, piece in enumerate(found):
        if isinstance(piece.value, Chunk) or piece.ordinary:
            writer.add(piece.value, first=number == 0)
        else:
            ids = writer.codec.template(piece.value, first=number == 0)
            # an answer's own ids end with the end-of-turn token, which the template writes again
            again = behind_chunk and ids and writer.ids and ids[0] == writer.ids[-1]
            again = again and (ids[0] in eos or writer.codec.is_control(ids[0]))
            writer.ids.extend(ids[1:] if again else ids)
        behind_chunk = isinstance(piece.value, Chunk)
    return notes
