"""A turn of a conversation, and what a caller may say in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nbkv.errors import BadPrompt
from nbkv.result import Chunk, Result
from nbkv.scalars import kind_of

Part = str | Chunk | Result
Content = Part | Sequence[Part]
ACCEPTED = "text, a chunk, a Result, or a list of these"


@dataclass(frozen=True)
class Turn:
    """What one ``role`` said, in parts; what the model said are its Results.

    ``standing``: what stands there in later prompts, where that was changed since; None: the parts.
    """

    role: str
    parts: tuple[Any, ...]
    standing: tuple[Any, ...] | None = None

    @property
    def said(self) -> tuple[Any, ...]:
        """Return its parts as prompts have them by now."""
        return self.parts if self.standing is None else self.standing

    @property
    def text(self) -> str:
        """Return it as text."""
        return "".join(part if isinstance(part, str) else part.text for part in self.said)

    @property
    def results(self) -> list[Result]:
        """Return what the model said."""
        return [part for part in self.parts if self.role == "assistant" and isinstance(part, Result)]

    def and_then(self, result: Result) -> Turn:
        """Return it gone on with by ``result``."""
        standing = None if self.standing is None else (*self.standing, result)
        return replace(self, parts=(*self.parts, result), standing=standing)

    def verbatim(self, model: str) -> list[Part]:
        """Return its parts for a prompt; what the model said is its ids, whatever ``model`` it is by now."""
        return [_answer(part, model) if self.role == "assistant" else part for part in self.said]


def parts_of(content: object, what: str) -> tuple[Part, ...]:
    """Return ``content`` in parts, a copy that nobody else can change; raises ``BadPrompt`` for what is none."""
    if isinstance(content, (str, Chunk, Result)):
        return (content,)
    if not isinstance(content, (list, tuple)):
        message = f"{what} is {kind_of(content)} (accepted: {ACCEPTED})"
        raise BadPrompt(message)
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            continue
        if not isinstance(part, (str, Chunk, Result)):
            message = f"a part of {what} is {kind_of(part)} (accepted: {ACCEPTED})"
            raise BadPrompt(message)
    return tuple(str(part["text"]) if isinstance(part, Mapping) else part for part in content)


def words_of(content: object, what: str) -> tuple[Part, ...]:
    """Return ``content`` in parts; raises ``BadPrompt`` also where it says nothing."""
    parts = parts_of(content, what)
    if not any(isinstance(part, (Chunk, Result)) or part for part in parts):
        message = f"{what} is empty (accepted: {ACCEPTED})"
        raise BadPrompt(message)
    return parts


def _answer(part: Part, model: str) -> Part:
    if isinstance(part, Result):
        part = part.chunk("answer")
    return replace(part, model=model) if isinstance(part, Chunk) else part
