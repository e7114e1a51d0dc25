"""A text unit encoded once: its token ids, and the sink it was encoded behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nbkv import show
from nbkv.show.units import plural


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A text unit encoded once: its own token ids, whatever stands beside it, and the sink it was encoded behind."""

    name: str
    text: str
    token_ids: tuple[int, ...]
    sink: tuple[int, ...]
    model: str
    lineage: str = "canonical"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)

    def path(self, start: int, block: int | None) -> tuple[int, ...]:
        """Return the tokens that it is encoded with, its own last, to stand from position ``start`` of a prompt on.

        In a block-diffusion model a token's KV depends on its place in its ``block`` of that many tokens, so the sink
        begins with as many more of its first token as bring the chunk there.
        """
        path = (*self.sink, *self.token_ids)
        missing = 0 if block is None else (start - len(self.sink)) % block
        return (*path[:1] * missing, *path)

    def __repr__(self) -> str:
        """Return name, size and the beginning of the text."""
        text = " ".join(self.text.split())
        shown = f"{text[:60]!r}{'…' if len(text) > 60 else ''}"  # noqa: PLR2004
        about = f"{plural(len(self), 'token')}, {shown}"
        return f"<Chunk {self.name!r}: {'; '.join((about, *self.notes))}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the chunk as JSON-able data."""
        return {"kind": "chunk"} | asdict(self)

    def _repr_html_(self) -> str:
        return show.chunk_html(self.to_dict())
