"""The decode loop of DiffusionGemma, by its own sampler."""

from __future__ import annotations

from collections.abc import Iterator

from nbkv.inference.loop import ByPasses
from nbkv.models.diffusion.canvas import Painter
from nbkv.models.sampling import Chooser


class ByCanvas(ByPasses):
    """Canvases are painted one after another by DiffusionGemma's own sampler, and encoded when they are done."""

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each finished canvas; the last one has a reason to finish."""
        adapter, request, prefilled = self.task.ctx.adapter, self.task.request, self.task.prefilled
        assert adapter.canvas is not None  # noqa: S101
        painter = Painter(adapter.canvas, self.task.sampling)
        chooser = Chooser(self.task.sampling, self._config, request.ids, adapter.device)
        prefilled.notes.append(painter.note)
        self._begin_figures(adapter.canvas.length, painter.spec)
        work = self._work()
        while True:
            ids = [*request.ids, *self.tokens]
            painted, scores, passes = painter.paint(
                ids, lambda block: self.task.denoise(block, work), self.task.ctx.stopper.check
            )
            prefilled.decoded += len(painted)
            piece, reason = self._emit(painted.tolist(), scores, chooser)
            self._count(passes, blocks=1)
            self.mark()
            yield piece, reason
            if reason:
                return
            self.task.ctx.stopper.check()
            self.task.accept(painted.tolist(), len(ids), work)
            self._count(1)
