"""K/V of answers as they were decoded, with the hidden states from which deeper layers can go on elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from nbkv.families.blend.harvest import HarvestedKV
from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.result import Chunk


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedKV(HarvestedKV):
    """The K/V of an answer, computed from position ``base`` on; ``ids`` are those of its prompt and of itself.

    ``hidden`` ``[1, T, H]`` is what ``layer`` was given for each of its tokens (None: not captured). ``used`` is the
    number of the request that took it last.
    """

    kv: KV
    ids: tuple[int, ...]
    hidden: torch.Tensor | None = None
    layer: int = 0
    used: int = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of K/V and hidden states."""
        return self.kv.nbytes + (0 if self.hidden is None else self.hidden.numel() * self.hidden.element_size())

    def of(self, chunk: Chunk) -> DecodedKV | None:
        """Return what this has of ``chunk``, a part of this answer or of one that begins like it; None: nothing."""
        path, first = (*chunk.sink, *chunk.token_ids), len(chunk.sink) - self.base
        same = first >= 0 and path[: len(self.ids)] == self.ids[: len(path)]
        length = min(len(chunk), self.kv.length - first) if same else 0
        if length <= 0:
            return None
        some = slice(first, first + length)
        hidden = None if self.hidden is None else self.hidden[:, some]
        return replace(self, kv=self.kv[some], base=self.base + first, hidden=hidden)


def newest(answers: Sequence[DecodedKV], chunk: Chunk) -> DecodedKV | None:
    """Return what ``answers`` have of ``chunk``: most of it, and of equals the newest."""
    found = [part for answer in answers if (part := answer.of(chunk)) is not None]
    return max(found, key=lambda part: (part.kv.length, part.used), default=None)


@contextmanager
def captured(adapter: ModelAdapter, layer: int, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within the block note what ``layer`` is given, pass by pass; ``keep`` gets it all, ``[1, T, H]``, at the end."""
    assert adapter.walk is not None  # noqa: S101
    rows: list[torch.Tensor] = []

    def note(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        rows.append(given.detach().clone())

    hook = adapter.walk.layers[layer].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        if rows:
            keep(torch.cat(rows, dim=-2))
