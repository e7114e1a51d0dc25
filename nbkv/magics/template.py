"""``{{ name }}`` in a cell: values of the notebook and chunks of the session become parts of the prompt."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any
from unicodedata import normalize

from nbkv.errors import BadOption, BadPrompt, closest
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of, plain

Part = str | Chunk
MOST_LISTED = 30
ACCEPTED = "str, int, float, chunk, Result, or a list or tuple of these"
_FIELD = re.compile(r"\\\{\{|\{\{[ \t]*([^\s{}]+)[ \t]*\}\}")
_MISSING = object()


def fill(text: str, variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> list[Part]:
    r"""Return the parts of the prompt that ``text`` stands for, neighbouring texts joined.

    ``{{ name }}`` is looked up in ``variables``, then in ``chunks``: a str is inlined (and not searched again), a chunk
    stays a part of its own, a Result gives its answer chunk, numbers are written out, lists and tuples give their items
    in order. ``\{{`` stands for ``{{``; other braces are left alone; one final newline is dropped.

    Raises ``BadPrompt`` for an unknown name, a name that stands for two different things, or a value of another type.
    """
    return list(_joined(_parts(text.removesuffix("\n"), variables, chunks)))


def _parts(text: str, variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> Iterator[Part]:
    at = 0
    for field in _FIELD.finditer(text):
        yield text[at : field.start()]
        at = field.end()
        name = field[1]
        if name is None:
            yield "{{"
        elif name.isidentifier():
            yield from _values(name, _find(name, variables, chunks))
        else:
            yield field[0]
    yield text[at:]


def _find(name: str, variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> object:
    own = spelled(name)
    value, chunk = variables.get(own, _MISSING), chunks.get(own, chunks.get(name))
    if value is _MISSING and chunk is None:
        known = known_names(variables, chunks)
        listed = ", ".join(known[:MOST_LISTED]) + (", …" if len(known) > MOST_LISTED else "")
        message = f"unknown name {{{{ {name} }}}}{closest(name, known)} (known: {listed or 'nothing yet'})"
        raise BadPrompt(message)
    if value is _MISSING:
        return chunk
    if chunk is not None and not (isinstance(value, Chunk) and value == chunk):
        message = (
            f"{{{{ {name} }}}} is both a variable ({kind_of(value)}) and a different chunk of this session;"
            " rename one of them"
        )
        raise BadPrompt(message)
    return value


def _values(name: str, value: object) -> Iterator[Part]:
    items: Iterable[object] = value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if isinstance(item, Result):
            yield item.chunk("answer")
        elif isinstance(item, (str, Chunk)):
            yield item
        elif isinstance(item, (bool, Real)):
            yield str(plain(item))
        else:
            where = "" if item is value else "an item of "
            message = f"{where}{{{{ {name} }}}} is {kind_of(item)} (accepted: {ACCEPTED})"
            raise BadPrompt(message)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring texts, so that they are tokenised as if they had been typed; leave out empty ones."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        yield part
        text = ""
    if text:
        yield text


def prompt_of(parts: list[Part], *, chat: bool) -> Any:  # noqa: ANN401  (one of the forms a session takes)
    """Return the prompt: one user message, or the plain text, or the parts where chunks are among them."""
    if not any(isinstance(part, Chunk) or part.strip() for part in parts):
        message = "the cell holds no prompt (write it below the first line)"
        raise BadPrompt(message)
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts
    return [{"role": "user", "content": content}] if chat else content


def spelled(name: str) -> str:
    """Return ``name`` as Python reads it in code: letters that are variants of others are those (NFKC)."""
    return normalize("NFKC", name)


def template_kwargs(words: Iterable[str], variables: Mapping[str, object]) -> dict[str, object]:
    """Return what words such as ``enable_thinking=False`` give the chat template.

    A value is a plain Python or JSON one, or the name of one of ``variables``, or else the text itself. Raises
    ``BadOption`` for a word without a name.
    """
    found: dict[str, object] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (sign and name.isidentifier()):
            message = f"--template-kwargs {word!r} is not accepted: NAME=VALUE, such as enable_thinking=False"
            raise BadOption(message)
        found[name] = _value(value, variables)
    return found


def _value(text: str, variables: Mapping[str, object]) -> object:
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            pass
    return variables.get(spelled(text), text)


def known_names(variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> list[str]:
    """Return the names that ``{{ }}`` can stand for: chunks, and variables of an accepted type."""
    fitting = {
        name
        for name, value in variables.items()
        if isinstance(value, (str, Real, Chunk, Result, list, tuple)) and not name.startswith("_")
    }
    return sorted(fitting | set(chunks))
