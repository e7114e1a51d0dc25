r"""``{{ name }}`` in a text: where names stand, and which parts of a prompt the values they stand for are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from numbers import Real

from nbkv.errors import BadPrompt
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of, plain

Part = str | Chunk
ACCEPTED = "str, int, float, chunk, Result, or a list or tuple of these"
_FIELD = re.compile(r"\\\{\{|\{\{[ \t]*([^\s{}]+)[ \t]*\}\}")


class Field(str):
    """A name that stood in double braces."""

    __slots__ = ()


def fields_of(text: str) -> Iterator[str]:
    r"""Yield ``text`` in pieces: plain ones, and a ``Field`` for each ``{{ name }}`` whose name is an identifier.

    ``\{{`` stands for ``{{``; other braces are left alone.
    """
    at = 0
    for found in _FIELD.finditer(text):
        yield text[at : found.start()]
        at = found.end()
        name = found[1]
        if name is None:
            yield "{{"
        else:
            yield Field(name) if name.isidentifier() else found[0]
    yield text[at:]


def values(name: str, value: object) -> Iterator[Part]:
    """Yield the parts that ``value`` is, given for ``{{ name }}``: lists give their items, a Result its answer.

    Raises ``BadPrompt`` for a value of another type.
    """
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


def joined(parts: Iterable[Part]) -> Iterator[Part]:
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
