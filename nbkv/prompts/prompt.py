"""A prompt as a caller wrote it (text, parts, messages) becomes token ids with the token spans of its chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbkv.errors import BadPrompt
from nbkv.prompts import matching
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk, Result

Part = str | Chunk | Result
Message = Mapping[str, Any]
_ANCHOR = 16  # tokens of the window that is hashed of each chunk; shorter chunks would match by accident

PromptLike = str | Chunk | Result | Sequence[Part] | Sequence[Message]


@dataclass(frozen=True)
class Prompt:
    """Token ids ``ids [n]``, the token spans ``(chunk, start, stop)`` of chunks in order, and notes for the result.

    ``chat``: it was made of messages, so that what answers is a chat model.
    """

    ids: tuple[int, ...]
    chunks: tuple[tuple[Chunk, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    chat: bool = False


def build(codec: Codec, prompt: PromptLike, model: str, eos: frozenset[int]) -> Prompt:
    """Return ``prompt`` tokenised; ``model`` is the fingerprint that its chunks must have been made with.

    Text is tokenised as transformers does, parts one by one so that a chunk's ids do not depend on its neighbours, and
    messages by the chat template. ``eos`` are the ids that end an answer: the template repeats the one that an earlier
    result's ids end with. Raises ``BadPrompt`` for an empty prompt or part, a chunk of another model, messages where
    there is no chat template or that it refuses.
    """
    if isinstance(prompt, str):
        if not prompt:
            message = "the prompt is empty (accepted: text, a list of parts, a list of messages)"
            raise BadPrompt(message)
        return Prompt(tuple(codec.whole(prompt)))
    parts = [prompt] if isinstance(prompt, (Chunk, Result)) else list(prompt)
    if not parts:
        message = "the prompt is an empty list (accepted: text, chunks, results, or messages)"
        raise BadPrompt(message)
    writer = _Writer(codec, model)
    if isinstance(parts[0], Mapping):
        _write_messages(writer, parts, eos)
    else:
        writer.ids.extend(codec.bos_ids)
        for number, part in enumerate(parts):
            writer.add(part, first=number == 0)
    return Prompt(tuple(writer.ids), tuple(writer.chunks), chat=isinstance(parts[0], Mapping))


def opening(codec: Codec) -> tuple[int, ...]:
    """Return the ids that stand before a user's first words: the chat template's, with its own system text.

    Without a template, those that the tokenizer puts in front of a text.
    """
    if not codec.has_template:
        return tuple(codec.bos_ids)
    mark = Chunk(name="", text="", token_ids=(0,), sink=(), model="")
    built = build(codec, [{"role": "user", "content": mark}], mark.model, frozenset())
    ((_, start, _),) = built.chunks
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
            message = f"a part of the prompt is a {type(part).__name__} (accepted: str, chunk, Result)"
            raise BadPrompt(message)


def _write_messages(writer: _Writer, messages: Sequence[object], eos: frozenset[int]) -> None:
    parts: list[Part] = []
    text = _render(writer.codec, [_with_placeholders(message, parts) for message in messages])
    pieces = re.split(r"NBKVPART(\d+)X", text)
    if sorted(map(int, pieces[1::2])) != list(range(len(parts))):
        message = "the chat template drops or repeats a part of these messages; write the prompt as a list of parts"
        raise BadPrompt(message)
    bos = getattr(writer.codec.tokenizer, "bos_token", None)
    if not (bos and text.startswith(bos)):
        writer.ids.extend(writer.codec.bos_ids)
    for number, piece in enumerate(pieces):
        first = number == 0 or (number == 1 and not pieces[0])
        if number % 2:
            writer.add(parts[int(piece)], first=first)
        elif piece:
            ids = writer.codec.template(piece, first=first)
            # an answer's own ids end with the end-of-turn token, which the template writes again
            again = number and ids and writer.ids and ids[0] == writer.ids[-1] and ids[0] in eos
            writer.ids.extend(ids[1:] if again else ids)


def _with_placeholders(message: object, parts: list[Part]) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        text = "a message is a dict with 'role' and 'content' (content: text, a chunk, or a list of both)"
        raise BadPrompt(text)
    content = message["content"]
    contents = [content] if isinstance(content, (str, Chunk, Result)) else list(content)
    start = len(parts)
    parts.extend(contents)
    return dict(message) | {"content": "".join(f"NBKVPART{start + i}X" for i in range(len(contents)))}


def _render(codec: Codec, messages: list[dict[str, Any]]) -> str:
    if not codec.has_template:
        message = "this tokenizer has no chat template (accepted: text or a list of parts)"
        raise BadPrompt(message)
    try:
        return str(codec.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:
        message = f"the chat template refuses these messages: {str(error).splitlines()[0] if str(error) else error!r}"
        raise BadPrompt(message) from error
