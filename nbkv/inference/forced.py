"""Teacher forcing: what a strategy would pick at each of given answer tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv.context import Request
from nbkv.inference.loop import AnswerTask
from nbkv.inference.run import RequestRun
from nbkv.models.diffusion.block import opened


def forced(task: AnswerTask, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits ``[n, V]`` before each of ``n`` answer ``tokens``, which are forced.

    Token by token given those before, all in one pass where the strategy decodes as the model does; by block or
    canvas, in its first pass, given the blocks before.
    """
    if task.ctx.adapter.canvas is not None:
        return _forced_canvases(task, tokens)
    return _forced_tokens(task, tokens) if task.ctx.adapter.recipe is None else _forced_blocks(task, tokens)


def _forced_canvases(task: AnswerTask, tokens: Sequence[int]) -> torch.Tensor:
    canvas, every, at, rows = task.ctx.adapter.canvas, (*task.request.ids, *tokens), len(task.request.ids), []
    assert canvas is not None  # noqa: S101
    while at < len(every):
        stop = min(at + canvas.length, len(every))
        rows.append(task.denoise(canvas.opened(at))[: stop - at])
        if stop < len(every):
            task.accept(every[at:stop], at)
        at = stop
    return torch.cat(rows)


def _forced_tokens(task: AnswerTask, tokens: Sequence[int]) -> torch.Tensor:
    rows, at = [task.prefilled.logits], len(task.request.ids) + task.prefilled.extra
    if len(tokens) > 1 and task.strategy.decodes_plainly:
        adapter, given = task.ctx.adapter, tokens[:-1]
        after = adapter.forward(adapter.tensor(given), task.prefilled.cache, start=at, keep=len(given))
        return torch.cat([rows[0][None], after])
    for count, token in enumerate(tokens[:-1]):
        rows.append(task.step(token, at + count))
    return torch.stack(rows)


def _forced_blocks(task: AnswerTask, tokens: Sequence[int]) -> torch.Tensor:
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
    return torch.cat(rows)


def follow(run: RequestRun, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits ``[n, V]`` after ``run``'s prompt and before each of full's ``n`` ``tokens``, which are forced.

    The strategy runs as always, decode stage included, but is fed ``tokens`` instead of its own picks; nothing is kept.
    A block-diffusion model is fed them block by block: logits are those of each block's first pass.
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
