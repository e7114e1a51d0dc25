"""One block while it is decoded: which of its tokens are chosen, which are still masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbkv.models.diffusion.recipe import Recipe


@dataclass(eq=False)
class Block:
    """``B`` tokens of one sequence from position ``start`` on, a multiple of ``B``.

    ``ids`` ``[B]`` hold the mask token where ``masked`` ``[B]`` is true. ``step`` counts the passes over this block
    from 0, ``revealed`` ``[B]`` are the rows that the pass before filled (tokens of a prompt are never among them).
    ``conditioning`` ``[1, B, V]`` is what the pass before said, where a model is told that again (DiffusionGemma: all
    tokens of its block, there a canvas, stay ``masked``, and ``start`` is any position).
    """

    start: int
    ids: torch.Tensor
    masked: torch.Tensor
    step: int
    revealed: torch.Tensor
    conditioning: torch.Tensor | None = None

    def reveal(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Fill ``rows`` (bool ``[B]``) with ``tokens`` ``[B]``, which ends a pass."""
        self.ids = torch.where(rows, tokens, self.ids)
        self.masked = self.masked & ~rows
        self.revealed = rows
        self.step += 1


def opened(ids: Sequence[int], recipe: Recipe, device: torch.device) -> Block:
    """Return the block that comes next behind ``ids``, before its first pass.

    It begins with those of ``ids`` that fill no whole block; the others are masked.
    """
    known = ids[len(ids) // recipe.block * recipe.block :]
    tokens = torch.full((recipe.block,), recipe.mask, dtype=torch.long, device=device)
    tokens[: len(known)] = torch.tensor(known, dtype=torch.long, device=device)
    masked = torch.arange(recipe.block, device=device) >= len(known)
    return Block(len(ids) - len(known), tokens, masked, 0, torch.zeros_like(masked))
