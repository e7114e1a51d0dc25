"""``{{ name }}`` in a cell: values of the notebook and chunks of the session become parts of the prompt."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any
from unicodedata import normalize

from nbkv.errors import BadOption, BadPrompt, closest
from nbkv.prompts.fields import Field, Part, fields_of, joined, values
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of

MOST_LISTED = 30
_MISSING = object()


def fill(text: str, variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> list[Part]:
    r"""Return the parts of the prompt that ``text`` stands for, neighbouring texts joined.

    ``{{ name }}`` is looked up in ``variables``, then in ``chunks``: a str is inlined (and not searched again), a chunk
    stays a part of its own, a Result gives its answer chunk, numbers are written out, lists and tuples give their items
    in order. ``\{{`` stands for ``{{``; other braces are left alone; one final newline is dropped.

    Raises ``BadPrompt`` for an unknown name, a name that stands for two different things, or a value of another type.
    """
    return list(joined(_parts(text.removesuffix("\n"), variables, chunks)))


def _parts(text: str, variables: Mapping[str, object], chunks: Mapping[str, Chunk]) -> Iterator[Part]:
    for piece in fields_of(text):
        if isinstance(piece, Field):
            yield from values(piece, _find(piece, variables, chunks))
        else:
            yield piece


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


def prompt_of(parts: list[Part], *, chat: bool) -> Any:  # noqa: ANN401  (one of the forms a session takes)
    """Return the prompt: one user message, or the plain text, or the parts where chunks are among them."""
    if not any(isinstance(part, Chunk) or part.strip() for part in parts):
        message = "the cell holds no prompt (write it below the first line, in the same cell)"
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
