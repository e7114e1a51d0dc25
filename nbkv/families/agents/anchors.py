"""Anchors: texts that stood at a place of a prompt template, and how far their K/V there were from their own alone.

After KVCOMM (arXiv 2510.12872). A *slot* is where a prompt has a chunk: the paper's placeholder. Its *place* is the
template up to there: the texts around the slots before it, whatever stood in those. Texts that come to one place have
the same words before them but for what the other slots hold, which is why their offsets resemble each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from nbkv.families.blend.earlier import HarvestedKV
from nbkv.kv import KV, Span
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk

Ids = tuple[int, ...]
Place = tuple[Ids, ...]


class Slot(NamedTuple):
    """A chunk of a prompt, the rows it takes, its place in the template, and the rows of the text behind it."""

    chunk: Chunk
    span: Span
    place: Place
    behind: Span


@dataclass(frozen=True, eq=False, kw_only=True)
class Anchor(HarvestedKV):
    """Text ``ids`` as it stood at ``place`` in a prompt that was computed in full, K/V of ``space``.

    ``kv`` are offsets ``[H, T, D]``: its K/V there less those it has alone, of keys that are not rotated: a token of
    another text takes them to the position it has there. ``behind`` are the K/V of the text ``behind_ids`` that
    followed, keys turned back to position 0; ``marks`` float32 ``[T, M]`` tell its tokens from others. ``heldout``
    float64 ``[2, L, 3]`` compares the offsets with what ``compared`` others at its place make of them
    (``offsets.comparison``; None: there were none), ``kl`` is KL(full || reuse) in nats over the answer to that prompt,
    had it been reused (None: not measured), ``changed`` its largest KL at a token that would have been another one (0:
    at none). ``uses`` counts the prompts it was of use to, ``age`` the prompts served at
    its place since.
    """

    place: Place
    ids: Ids
    marks: torch.Tensor
    kv: KV
    behind_ids: Ids
    behind: KV
    heldout: torch.Tensor | None = None
    compared: int = 0
    kl: float | None = None
    changed: float = 0.0
    uses: int = 0
    age: int = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors; token ids count four each."""
        tensors = (self.marks, *(() if self.heldout is None else (self.heldout,)))
        ids = 4 * (len(self.ids) + len(self.behind_ids) + sum(map(len, self.place)))
        own: int = sum(t.numel() * t.element_size() for t in tensors)
        return self.kv.nbytes + self.behind.nbytes + own + ids

    def shared_behind(self, ids: Sequence[int]) -> int:
        """Return how many first tokens of ``ids`` also stood behind this anchor."""
        differ = (at for at, (own, other) in enumerate(zip(self.behind_ids, ids, strict=False)) if own != other)
        return next(differ, min(len(self.behind_ids), len(ids)))


def slots(prompt: Prompt) -> tuple[Slot, ...]:
    """Return the slots of ``prompt`` in order."""
    found: list[Slot] = []
    place: Place = ()
    edges = [*(start for _, start, _ in prompt.chunks), len(prompt.ids)]
    before = 0
    for (chunk, start, stop), until in zip(prompt.chunks, edges[1:], strict=True):
        place = (*place, prompt.ids[before:start])
        found.append(Slot(chunk, Span(start, stop), place, Span(stop, until)))
        before = stop
    return tuple(found)


def waiting(prompt: Prompt, known: int) -> tuple[Slot, ...]:
    """Return the slots that reach behind the first ``known`` rows, and the one before them if the text between does."""
    found = slots(prompt)
    first = next((at for at, slot in enumerate(found) if slot.span.stop > known), len(found))
    if first == len(found):
        return ()
    return tuple(slot for slot in found[max(0, first - 1) :] if slot.behind.stop > known or slot.span.stop > known)


def marks(alone: KV) -> torch.Tensor:
    """Return what tells the tokens of a text from others, float32 ``[T, M]``: the values they have ``alone``.

    Those of the middle layer, or of the last one before it that has any. Values have no position in them; on SmolLM2
    and texts about the same task, middle layers' find neighbours of nearer offsets than input embeddings do.
    """
    middle = len(alone.values) // 2
    layer = next((each for each in reversed(alone.values[: middle + 1]) if each.shape[0]), alone.values[0])
    return layer.transpose(0, 1).reshape(layer.shape[1], -1).to(torch.float32)
