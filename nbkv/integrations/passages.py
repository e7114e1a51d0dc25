"""Retrieved passages as chunks: each is encoded once, and put where a prompt has its text.

A framework writes retrieved text into prompts itself. Where a message has all of a passage's text, that part of it
becomes the chunk, so its token ids do not depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from nbkv.result import Chunk
from nbkv.session.session import Session

Content = str | list[Any]


class Passages:
    """The passages that a session has encoded, by their text."""

    def __init__(self, session: Session) -> None:
        """Know none yet."""
        self._session = session
        self._chunks: dict[str, Chunk] = {}

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._chunks)

    def add(self, texts: Iterable[str]) -> list[Chunk]:
        """Encode what is new of ``texts``; return the chunks of all that say something."""
        found = []
        for text in texts:
            if text.strip():
                if text not in self._chunks:
                    name = f"passage {blake2b(text.encode(), digest_size=6).hexdigest()}"
                    self._chunks[text] = self._session.chunk(text, name=name)
                found.append(self._chunks[text])
        return found

    def parts(self, text: str) -> list[str | Chunk]:
        """Return ``text`` in parts, known passages in it as chunks: the longest first where they overlap."""
        parts: list[str | Chunk] = [text]
        for passage in sorted(self._chunks, key=len, reverse=True):
            parts = [piece for part in parts for piece in _split(part, passage, self._chunks[passage])]
        return parts

    def placed(self, messages: Sequence[Mapping[str, Any]], given: Sequence[Chunk]) -> list[dict[str, Any]]:
        """Return ``messages`` with passages in their contents as chunks.

        Those of ``given`` that no message has are put before the text of the user's last one.
        """
        made = [dict(message) | {"content": self._content(message.get("content"))} for message in messages]
        there = {part.name for message in made for part in _listed(message["content"]) if isinstance(part, Chunk)}
        missing = [chunk for chunk in dict.fromkeys(given) if chunk.name not in there]
        last = next((message for message in reversed(made) if message.get("role") == "user"), None)
        if missing and last is not None:
            last["content"] = [*missing, *_listed(last["content"])]
        return made

    def _content(self, content: Any) -> Any:  # noqa: ANN401  (nbkv itself says what it may be)
        if isinstance(content, str):
            parts = self.parts(content)
            return content if parts == [content] else parts
        if isinstance(content, list):
            return [piece for part in content for piece in (self.parts(part) if isinstance(part, str) else [part])]
        return content


def _split(part: str | Chunk, passage: str, chunk: Chunk) -> list[str | Chunk]:
    if not isinstance(part, str) or passage not in part:
        return [part]
    found: list[str | Chunk] = []
    for number, between in enumerate(part.split(passage)):
        found += [chunk] * bool(number) + [between] * bool(between)
    return found


def _listed(content: Any) -> list[Any]:  # noqa: ANN401  (as above)
    return content if isinstance(content, list) else [content] if content else []
