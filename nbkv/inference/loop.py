"""The decode loops: token by token for causal models, block by block for block-diffusion models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nbkv.context import Context, Request
from nbkv.events import Token
from nbkv.models.diffusion.block import Block
from nbkv.models.sampling import Chooser, Sampling
from nbkv.models.work import Work
from nbkv.prompts.text_stream import TextStream
from nbkv.strategy import Prefilled, Strategy

if TYPE_CHECKING:
    from nbkv.context import Context


@dataclass(frozen=True, eq=False)
class AnswerTask:
    """A prompt that has been run, and how its answer is wanted."""

    strategy: Strategy
    prefilled: Prefilled
    request: Request
    ctx: Context
    sampling: Sampling

    def step(self, token: int, at: int, work: Work | None = None) -> torch.Tensor:
        """Run one decoded ``token`` at position ``at``; return the logits ``[V]`` after it."""
        return self.strategy.step(token, at, self.prefilled, self.ctx, work)

    def denoise(self, block: Block, work: Work | None = None) -> torch.Tensor:
        """Run one pass over ``block``; return the logits ``[B, V]`` of its rows' own tokens."""
        return self.strategy.denoise(block, self.prefilled, self.ctx, work)

    def accept(self, ids: Sequence[int], start: int, work: Work | None = None) -> torch.Tensor:
        """Run a finished block once more, clean, which keeps its KV; return the logits ``[V]`` after its last row."""
        adapter = self.ctx.adapter
        return adapter.forward(adapter.tensor(ids), self.prefilled.cache, start=start, work=work)[-1]


@dataclass(eq=False)
class DecodeLoop:
    """One answer under way: ``tokens`` grows, ``mark`` is called for each piece that is ready to be shown."""

    task: AnswerTask
    text: TextStream
    tokens: list[int]
    mark: Callable[[], None]

    @abstractmethod
    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each token or block; the last one has a reason to finish."""

    @property
    def _config(self) -> Any:  # noqa: ANN401  (a transformers generation config)
        return getattr(self.task.ctx.adapter.model, "generation_config", None)

    def _take(self, token: int, logits: torch.Tensor, chooser: Chooser) -> tuple[str, str | None]:
        """Take ``token``, chosen from ``logits`` ``[V]``, into the answer; return its text and a reason to finish."""
        self.tokens.append(token)
        piece = self.text.add(token)
        ended = chooser.add(token, logits) or token in self.task.ctx.eos or self.text.stopped
        self.task.ctx.tell(Token, token_id=token, text=piece)
        return piece, "stop" if ended else "length" if len(self.tokens) == self.task.request.max_new_tokens else None


class ByPasses(DecodeLoop):
    """What loops share that fill many tokens together, in several passes."""

    def _work(self) -> Work:
        """Return what counts the layers' work and lets a stop end it; no event, those are for the prompt's layers."""
        work = Work(on_layer=lambda *_: self.task.ctx.stopper.check())
        self.task.prefilled.decode.append(work)
        return work

    def _begin_figures(self, block: int, unmask: str) -> None:
        figures = {"block": block, "unmask": unmask, "blocks": 0, "forwards": 0, "tokens_per_forward": 0.0}
        self.task.prefilled.figures = figures | self.task.prefilled.figures

    def _count(self, forwards: int, blocks: int = 0) -> None:
        figures = self.task.prefilled.figures
        figures["blocks"] += blocks
        figures["forwards"] += forwards
        figures["tokens_per_forward"] = len(self.tokens) / figures["forwards"]

    def _emit(self, ids: Sequence[int], scores: torch.Tensor, chooser: Chooser) -> tuple[str, str | None]:
        """Take ``ids``, chosen from ``scores`` ``[n, V]``, up to the answer's end; return text and why it ended."""
        pieces, reason = [], None
        for token, logits in zip(ids, scores, strict=True):
            piece, reason = self._take(token, logits, chooser)
            pieces.append(piece)
            if reason:
                break
        return "".join(pieces), reason
