"""Chooses a token for each masked row from the logits of one denoising pass, and says how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from nbkv.models.diffusion.block import Block
from nbkv.models.diffusion.recipe import Recipe
from nbkv.models.sampling import Chooser, Sampling
from nbkv.models.unmask import Candidates, parse


class Filler(Chooser):
    """Fills a block's masked tokens pass by pass, by the rule and the sampling options of one answer.

    The mask token itself is never chosen. Logits processors are given, for every row, the tokens chosen so far: those
    before the block and those revealed in it. The authors' own samplers know none of ``generate``'s defaults.
    """

    defaults: ClassVar[Mapping[str, object]] = MappingProxyType({})

    def __init__(
        self,
        wanted: Sampling,
        config: Any,  # noqa: ANN401  (a transformers generation config)
        prompt: Sequence[int],
        device: torch.device,
        recipe: Recipe,
    ) -> None:
        """Prepare for one answer to ``prompt``."""
        super().__init__(wanted, config, prompt, device)
        self.spec = wanted.unmask or recipe.unmask
        self._rule = parse(self.spec)
        self.recipe = recipe
        self._passes: tuple[int, int] = (0, 0)  # where the part under way begins, and how many passes it has had

    def fill(self, block: Block, logits: torch.Tensor) -> None:
        """Fill the tokens of ``block`` that the rule takes, given the logits ``[B, V]`` of its masked rows."""
        begin, size = self._part(block)
        step = self._passes[1] + 1 if self._passes[0] == block.start + begin and block.step else 0
        self._passes = (block.start + begin, step)
        rows = block.masked.nonzero().flatten()
        rows = rows[(rows >= begin) & (rows < begin + size)]
        tokens, chances = self.draw(logits[rows], [*self._ids[: block.start], *block.ids[~block.masked].tolist()])
        confidence = chances.gather(-1, tokens[:, None])[:, 0]
        picked = self._rule.pick(Candidates(confidence, chances, size, step))
        new, which = block.ids.clone(), torch.zeros_like(block.masked)
        new[rows], which[rows] = tokens, picked
        block.reveal(which, new)

    def draw(self, logits: torch.Tensor, known: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a token for each row of ``logits`` ``[m, V]``, and the distributions ``[m, V]`` they are drawn from.

        ``known`` are the tokens chosen so far, for the logits processors.
        """
        scores = logits.to(torch.float32, copy=True)
        scores[:, self.recipe.mask] = float("-inf")
        if self._processors:
            so_far = torch.tensor([known], device=scores.device).expand(len(scores), -1)
            scores = self._processors(so_far, scores)  # type: ignore[arg-type]  # transformers' narrow type
        chances = torch.softmax(scores, dim=-1)
        if self._generator is None:
            return scores.argmax(dim=-1), chances
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0], chances

    def _part(self, block: Block) -> tuple[int, int]:
        """Return where the part of ``block`` begins that is to be filled next, and its length."""
        size = self.recipe.sub_block or len(block.ids)
        return int(block.masked.nonzero()[0]) // size * size, size
