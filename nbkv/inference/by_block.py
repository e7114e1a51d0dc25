"""The decode loop of block-diffusion models: blocks are filled one after another, each in several passes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nbkv.inference.loop import ByPasses
from nbkv.models.diffusion.block import Block, opened
from nbkv.models.diffusion.filler import Filler
from nbkv.models.work import Work


class ByBlock(ByPasses):
    """Blocks are filled one after another, each in several passes, and run once more, clean, when they are full.

    The first block begins with what is left of the prompt behind its whole blocks. The last one is not run again: what
    an answer ends in is seldom a whole block of what is kept.
    """

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each finished block; the last one has a reason to finish."""
        prefilled, request, recipe = self.task.prefilled, self.task.request, self.task.ctx.adapter.recipe
        assert recipe is not None  # noqa: S101
        device = self.task.ctx.adapter.device
        filler = Filler(self.task.sampling, self._config, request.ids, device, recipe)
        self._begin_figures(recipe.block, filler.spec)
        work, logits = self._work(), prefilled.logits
        while True:
            block, scores = self._opened(logits, filler)
            passes = self._fill(block, scores, filler, work)
            prefilled.decoded += len(block.ids) if passes else 0
            begin = self._answer_begins(block)
            piece, reason = self._emit(block.ids[begin:].tolist(), scores[begin:], filler)
            self._count(passes, blocks=1)
            self.mark()
            yield piece, reason
            if reason:
                return
            self.task.ctx.stopper.check()
            logits = self.task.accept(block.ids.tolist(), block.start, work)
            self._count(1)

    def _opened(self, logits: torch.Tensor, filler: Filler) -> tuple[Block, torch.Tensor]:
        """Return the next block, and room for the logits ``[B, V]`` that its tokens are chosen from.

        Where rows tell the token after them, the last row before a block, whose ``logits`` these are, gives its first.
        """
        adapter, recipe = self.task.ctx.adapter, filler.recipe
        ids = [*self.task.request.ids, *self.tokens]
        scores = torch.empty(recipe.block, adapter.config.vocab_size, device=adapter.device)
        if recipe.shifted and len(ids) % recipe.block == 0:
            scores[0] = logits
            ids.append(int(filler.draw(logits[None], ids)[0]))
        return opened(ids, recipe, adapter.device), scores

    def _fill(self, block: Block, scores: torch.Tensor, filler: Filler, work: Work) -> int:
        """Run passes over ``block`` until all of it stands that belongs to the answer; return their number."""
        while self._open(block):
            if block.step:
                self.task.ctx.stopper.check()
            logits = self.task.denoise(block, work)
            filler.fill(block, logits)
            scores[block.revealed] = logits[block.revealed].to(scores.dtype)
        return block.step

    def _open(self, block: Block) -> bool:
        """Return whether a token is masked that the answer needs: before its end, be it a length or an EOS."""
        ids, masked = block.ids.tolist(), block.masked.tolist()
        begin = self._answer_begins(block)
        for at in range(begin, len(ids)):
            if masked[at]:
                return True
            if ids[at] in self.task.ctx.eos or len(self.tokens) + at - begin + 1 == self.task.request.max_new_tokens:
                return False
        return False

    def _answer_begins(self, block: Block) -> int:
        return len(self.task.request.ids) + len(self.tokens) - block.start
