"""Teacher forcing: what a strategy would pick at each of given answer tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv.context import Request
from nbkv.inference.loop import AnswerTask
from nbkv.inference.run import RequestRun
from nbkv.models.diffusion.block import opened


def forced(task: AnswerTask, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Return the logits ``[V]`` of the first answer token, and what is picked at each of ``tokens``, which are forced.

    Token by token given those before; by block or canvas, in its first pass, given the blocks before.
    """
    if task.ctx.adapter.canvas is not None:
        return _forced_canvases(task, tokens)
    return _forced_tokens(task, tokens) if task.ctx.adapter.recipe is None else _forced_blocks(task, tokens)


def _forced_canvases(task: AnswerTask, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
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


def _forced_tokens(task: AnswerTask, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    logits, picked = task.prefilled.logits, []
    for count, token in enumerate(tokens):
        picked.append(int(logits.argmax()))
        if count + 1 < len(tokens):
            at = len(task.request.ids) + task.prefilled.extra + count
            logits = task.step(token, at)
    return task.prefilled.logits, picked


def _forced_blocks(task: AnswerTask, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
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


def follow(run: RequestRun, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Return the next-token logits ``[V]`` after ``run``'s prompt, and what it would pick at each of full's ``tokens``.

    The strategy runs as always, decode stage included, but is fed ``tokens`` instead of its own picks; nothing is kept.
    A block-diffusion model is fed them block by block: logits and picks are those of each block's first pass.
    """
    ctx = run.ctx
    request = Request(run.prompt, len(tokens), keep=False)
    prefilled = run.strategy.prefill(request, ctx)
    task = AnswerTask(run.strategy, prefilled, request, ctx, run.sampling)
    try:
        with run.strategy.decoding(prefilled, ctx):
            return forced(task, tokens)
    finally:
        run.strategy.commit(prefilled, request.ids, request, ctx)
