"""What recomputed rows tell of those that are not: a chunk's other rows are moved by a share of their typical change.

KV of a chunk lack what stands before it, and part of that is the same for all of its rows. How much their K and V
change when they are computed in place is known of the recomputed rows, layer by layer, as the pass reaches it. A few of
them change far more than others (what was an attention sink is none any more), and they were chosen for being unlike
the rest. So each counts by the direction of its change, which is one step from no change towards the geometric median
(Weiszfeld's algorithm), and only a share of that is put on the others. It costs no pass and no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from nbkv.families.blend.partial import PartialPrefill
from nbkv.rope import Rotation

Pair = tuple[torch.Tensor, torch.Tensor]

_FEW = 2  # rows of a chunk that say something of the others


@dataclass(frozen=True, eq=False)
class RepairedChunk:
    """A chunk's rows by position: the ``chosen`` ``[c]`` that run again, and all ``others`` ``[o]``."""

    chosen: torch.Tensor
    others: torch.Tensor


@contextmanager
def repaired(partial: PartialPrefill, chosen: torch.Tensor, share: float) -> Iterator[torch.Tensor]:
    """Within the block, which runs ``chosen``, chunks' other rows move by ``share`` of the typical change of theirs.

    Gives the rows that move. Chunks that the store had are repaired; what was in earlier prompts stays as it is.
    """
    chunks = list(_chunks(partial, chosen)) if share else []
    with ExitStack() as stack:
        for layer in range(partial.n_layers if chunks else 0):
            rope = partial.adapter.rope
            watch = LayerRepair(chunks, None if rope is None else rope.layers[layer], share)
            stack.enter_context(partial.cache.watching(layer, watch))
        yield torch.cat([partial.reused[:0], *(chunk.others for chunk in chunks)])


def _chunks(partial: PartialPrefill, chosen: torch.Tensor) -> Iterator[RepairedChunk]:
    for _, span, _ in partial.placed:
        rows = partial.reused[(partial.reused >= span.start) & (partial.reused < span.stop)]
        again = torch.isin(rows, chosen)
        own = span.start in partial.supplied or span.start in partial.bases
        if not own and int(again.sum()) >= _FEW and not bool(again.all()):
            yield RepairedChunk(rows[again], rows[~again])


@dataclass(frozen=True, eq=False)
class LayerRepair:
    """Moves the other rows of ``chunks`` in one layer, whose keys turn by ``rotation``, as new K/V come in."""

    chunks: list[RepairedChunk]
    rotation: Rotation | None
    share: float

    def __call__(self, cached: Pair, fresh: Pair, at: torch.Tensor) -> None:
        """Change ``cached`` ``[H, capacity, D]`` by what ``fresh`` ``[H, n, D]``, of the rows ``at``, say."""
        at = at.to(cached[0].device)
        for chunk in self.chunks:
            chosen, others = chunk.chosen.to(at.device), chunk.others.to(at.device)
            among = torch.searchsorted(at, chosen)
            for keys, old, new in zip((True, False), cached, fresh, strict=True):
                change = new[:, among].float() - old[:, chosen].float()
                if keys:
                    change = self._turned(change, chosen, torch.zeros_like(chosen))
                moved = self.share * typical(change)
                if keys:
                    moved = self._turned(moved.expand(-1, len(others), -1), torch.zeros_like(others), others)
                old[:, others] = (old[:, others].float() + moved).to(old.dtype)

    def _turned(self, keys: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Return ``keys`` turned from positions ``old`` to ``new``."""
        return keys if self.rotation is None else self.rotation.rotate(keys, *self.rotation.angles(old, new))


def typical(changes: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``changes`` ``[H, n, D]``, each weighed by the inverse of its length: ``[H, 1, D]``."""
    weights = 1 / changes.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(changes.dtype).tiny)
    mean: torch.Tensor = (weights * changes).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
    return mean
