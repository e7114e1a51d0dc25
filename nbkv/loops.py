"""The decode loops: token by token for causal models, block by block for block-diffusion models."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nbkv.events import Fallback, Token
from nbkv.models.adapter import ModelAdapter
from nbkv.models.decode import Chooser, Sampling, TextStream
from nbkv.models.diffusion.block import Block, opened
from nbkv.models.diffusion.filling import Filler
from nbkv.models.diffusion.gemma import Painter
from nbkv.models.work import Unfollowed, Work
from nbkv.strategy import Context, Prefilled, Request, Strategy

if TYPE_CHECKING:
    from nbkv.running import Engine


_QUICK_S = 0.1  # after a token that took less, a stop can wait for the end of the next one


@dataclass(frozen=True, eq=False)
class Task:
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
class Loop:
    """One answer under way: ``tokens`` grows, ``mark`` is called for each piece that is ready to be shown."""

    task: Task
    text: TextStream
    engine: Engine
    tokens: list[int]
    mark: Callable[[], None]

    @abstractmethod
    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each token or block; the last one has a reason to finish."""

    @property
    def _config(self) -> Any:  # noqa: ANN401  (a transformers generation config)
        return getattr(self.engine.adapter.model, "generation_config", None)

    def _take(self, token: int, logits: torch.Tensor, chooser: Chooser) -> tuple[str, str | None]:
        """Take ``token``, chosen from ``logits`` ``[V]``, into the answer; return its text and a reason to finish."""
        self.tokens.append(token)
        piece = self.text.add(token)
        ended = chooser.add(token, logits) or token in self.engine.eos or self.text.stopped
        if self.engine.bus.heard:
            self.task.ctx.tell(Token, token_id=token, text=piece)
        return piece, "stop" if ended else "length" if len(self.tokens) == self.task.request.max_new_tokens else None


class ByPasses(Loop):
    """What loops share that fill many tokens together, in several passes."""

    def _work(self) -> Work:
        """Return what counts the layers' work and lets a stop end it; no event, those are for the prompt's layers."""
        return Work(on_layer=lambda *_: self.engine.stopper.check())

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


class ByToken(Loop):
    """Each token is chosen from the logits after the one before."""

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each token; the last one has a reason to finish."""
        engine, request, prefilled = self.engine, self.task.request, self.task.prefilled
        logits = prefilled.logits
        chooser = Chooser(self.task.sampling, self._config, request.ids, logits.device)
        followed, quick = self.task.ctx.work(), Unfollowed()
        work = followed
        while True:
            token = chooser.choose(logits)
            piece, reason = self._take(token, logits, chooser)
            self.mark()
            yield piece, reason
            if reason:
                return
            engine.stopper.check()
            at = len(request.ids) + prefilled.extra + len(self.tokens) - 1
            if at == engine.adapter.capabilities.rope_switch:
                logits = self._start_over(followed)
            else:
                began = time.perf_counter()
                logits = self.task.step(token, at, work)
                work = quick if time.perf_counter() - began < _QUICK_S else followed

    def _start_over(self, work: Work) -> torch.Tensor:
        """Run everything again in a cache of its own: from here on the model turns all tokens by other angles."""
        adapter, request, prefilled = self.engine.adapter, self.task.request, self.task.prefilled
        ids = (*request.ids, *self.tokens)
        prefilled.cache, prefilled.extra = adapter.new_cache(len(request.ids) + request.max_new_tokens), 0
        why = f"longrope changes its angles after {len(ids) - 1} tokens: prompt and answer so far were run again"
        prefilled.notes.append(why)
        self.task.ctx.tell(Fallback, why=why)
        return adapter.forward(adapter.tensor(ids), prefilled.cache, start=0, work=work)[-1]


class ByBlock(ByPasses):
    """Blocks are filled one after another, each in several passes, and run once more, clean, when they are full.

    The first block begins with what is left of the prompt behind its whole blocks. The last one is not run again: what
    an answer ends in is seldom a whole block of what is kept.
    """

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each finished block; the last one has a reason to finish."""
        prefilled, request, recipe = self.task.prefilled, self.task.request, self.engine.adapter.recipe
        assert recipe is not None  # noqa: S101
        device = self.engine.adapter.device
        filler = Filler(self.task.sampling, self._config, request.ids, device, recipe)
        self._begin_figures(recipe.block, filler.spec)
        work, logits = self._work(), prefilled.logits
        while True:
            block, scores = self._opened(logits, filler)
            passes = self._fill(block, scores, filler, work)
            begin = self._answer_begins(block)
            piece, reason = self._emit(block.ids[begin:].tolist(), scores[begin:], filler)
            self._count(passes, blocks=1)
            self.mark()
            yield piece, reason
            if reason:
                return
            self.engine.stopper.check()
            logits = self.task.accept(block.ids.tolist(), block.start, work)
            self._count(1)

    def _opened(self, logits: torch.Tensor, filler: Filler) -> tuple[Block, torch.Tensor]:
        """Return the next block, and room for the logits ``[B, V]`` that its tokens are chosen from.

        Where rows tell the token after them, the last row before a block, whose ``logits`` these are, gives its first.
        """
        adapter, recipe = self.engine.adapter, filler.recipe
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
                self.engine.stopper.check()
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
            if ids[at] in self.engine.eos or len(self.tokens) + at - begin + 1 == self.task.request.max_new_tokens:
                return False
        return False

    def _answer_begins(self, block: Block) -> int:
        return len(self.task.request.ids) + len(self.tokens) - block.start


class ByCanvas(ByPasses):
    """Canvases are painted one after another by DiffusionGemma's own sampler, and encoded when they are done."""

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Yield ``(piece, reason)`` for each finished canvas; the last one has a reason to finish."""
        adapter, request, prefilled = self.engine.adapter, self.task.request, self.task.prefilled
        assert adapter.canvas is not None  # noqa: S101
        painter = Painter(adapter.canvas, self.task.sampling)
        chooser = Chooser(self.task.sampling, self._config, request.ids, adapter.device)
        prefilled.notes.append(painter.note)
        self._begin_figures(adapter.canvas.length, painter.spec)
        work = self._work()
        while True:
            ids = [*request.ids, *self.tokens]
            painted, scores, passes = painter.paint(
                ids, lambda block: self.task.denoise(block, work), self.engine.stopper.check
            )
            piece, reason = self._emit(painted.tolist(), scores, chooser)
            self._count(passes, blocks=1)
            self.mark()
            yield piece, reason
            if reason:
                return
            self.engine.stopper.check()
            self.task.accept(painted.tolist(), len(ids), work)
            self._count(1)


def loop_of(adapter: ModelAdapter) -> type[Loop]:
    """Return how answers of ``adapter``'s model are decoded."""
    if adapter.canvas is not None:
        return ByCanvas
    return ByToken if adapter.recipe is None else ByBlock


def forced(task: Task, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Return the logits ``[V]`` of the first answer token, and what is picked at each of ``tokens``, which are forced.

    Token by token given those before; by block or canvas, in its first pass, given the blocks before.
    """
    if task.ctx.adapter.canvas is not None:
        return _forced_canvases(task, tokens)
    return _forced_tokens(task, tokens) if task.ctx.adapter.recipe is None else _forced_blocks(task, tokens)


def _forced_canvases(task: Task, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    canvas, every, at, rows = task.ctx.adapter.canvas, (*task.request.ids, *tokens), len(task.request.ids), []
    assert canvas is not None  # noqa: S101
    while at < len(every):
        stop = min(at + canvas.length, len(every))
        rows.append(task.denoise(canvas.opened(at))[: stop - at])
        if stop < len(every):
            task.accept(every[at:stop], at)
        at = stop
    said = torch.cat(rows)
    return said[0], said.argmax(dim=-1).tolist()


def _forced_tokens(task: Task, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    logits, picked = task.prefilled.logits, []
    for count, token in enumerate(tokens):
        picked.append(int(logits.argmax()))
        if count + 1 < len(tokens):
            at = len(task.request.ids) + task.prefilled.extra + count
            logits = task.step(token, at)
    return task.prefilled.logits, picked


def _forced_blocks(task: Task, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    adapter, every = task.ctx.adapter, (*task.request.ids, *tokens)
    recipe, at = adapter.recipe, len(task.request.ids)
    assert recipe is not None  # noqa: S101
    seed, rows = task.prefilled.logits, []
    while at < len(every):
        known, seeded = list(every[:at]), recipe.shifted and at % recipe.block == 0
        block = opened([*known, int(seed.argmax())] if seeded else known, recipe, adapter.device)
        logits = task.denoise(block)
        if seeded:
            logits[0] = seed
        stop = min(block.start + recipe.block, len(every))
        rows.append(logits[at - block.start : stop - block.start])
        at = stop
        if at < len(every):
            seed = task.accept(every[block.start : at], block.start)
    said = torch.cat(rows)
    return said[0], said.argmax(dim=-1).tolist()
