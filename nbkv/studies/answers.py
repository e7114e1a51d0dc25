"""One question under many strategies: how far each answer is from full's, at what cost, and whether it is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from nbkv.context import Context, Request
from nbkv.events import Bus
from nbkv.families.blend.harvest import Harvest
from nbkv.families.prefix.base import encode
from nbkv.fidelity import fidelity
from nbkv.inference.forced import forced
from nbkv.inference.loop import AnswerTask
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.session.measure import greedy, noise_floor
from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse
from nbkv.tasks.metrics import METRICS

if TYPE_CHECKING:
    from nbkv.prompts.prompt import Prompt
    from nbkv.tasks.items import Item

Row = str | Strategy | Callable[[Session, "Item", list[Any]], Strategy]
"""What is measured: a strategy, or what makes one for a question."""


def own_rule(name: str) -> bool:
    """Whether a method says itself how many rows to run, unless it is given a budget (Cache-Craft's CFO, EPIC's k)."""
    return getattr(parse(name), "budget", 0) is None


@dataclass(frozen=True)
class Cell:
    """One strategy on one question: what its answer was, how far from full's, at what cost.

    ``kl`` and ``kl_max`` are nats over full's greedy tokens, ``top1`` the share of them that it would pick as well,
    ``share`` all token-layers run over prompt x layers. Of its own greedy answer: ``f1`` against full's, ``truth``
    against the expected ones, by F1 where the item is scored by it, else by its first metric.
    """

    kl: float
    kl_max: float
    top1: float
    share: float
    f1: float
    truth: float

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the figures' names."""
        return tuple(cls.__dataclass_fields__)


LONGEST = 32
"""Tokens of an answer that are looked at."""


def measure(
    session: Session,
    item: Item,
    sinks: Sequence[str],
    some: Callable[[str], Sequence[Row]],
    longest: int = LONGEST,
) -> dict[str, Any]:
    """Return the figures of one question: of full, and by sink and strategy (``"sink strategy"``) each ``Cell``.

    Full's greedy answer is followed for ``longest`` tokens. Strategies take turns on the same prompt, whose chunks were
    encoded before it existed; what stands in front of the first chunk is in the store, as a server has it. Nothing of
    one question is there at the next.
    """
    found: dict[str, Any] = {"kind": item.kind, "name": item.name, "cells": {}}
    full: _FullAnswer | None = None
    for sink in sinks:
        asked = _AskedQuestion(session, item, sink, full, longest)
        full = asked.full
        for row in some(sink):
            name, cell = asked.cell(row)
            found["cells"][f"{sink} {name}"] = [_rounded(getattr(cell, figure)) for figure in Cell.names()]
        asked.close()
    assert full is not None  # noqa: S101
    return found | full.figures


@dataclass(frozen=True)
class _FullAnswer:
    """Full's greedy tokens, its logits ``[n, V]`` before each, and what there is to say of them."""

    tokens: list[int]
    logits: torch.Tensor
    figures: dict[str, Any]


class _AskedQuestion:
    """One question with its chunks made behind one sink."""

    def __init__(self, session: Session, item: Item, sink: str, full: _FullAnswer | None, longest: int) -> None:
        self._session, self._item, self._met = session, item, ""
        parts = [session.chunk(text, name=_name(sink, text), sink=sink) for text in item.chunks]
        self._given = item.prompt(parts, chat=session.has_template)
        self._ctx: Context = replace(session._open().for_request(), bus=Bus())  # noqa: SLF001
        self._prompt: Prompt = session._prompt(self._given)  # noqa: SLF001
        if head := self._prompt.ids[: self._prompt.chunks[0][1]]:
            encode(head, self._ctx)
        self.full = full or self._as_full(longest)

    def _as_full(self, longest: int) -> _FullAnswer:
        """Return full's answer; its figures are lengths, the score against the truth and the noise floor."""
        tokens = greedy(self._ctx, self._prompt, longest)
        logits = self._run(parse("full"), tokens)[0]
        floor = noise_floor(self._ctx, self._prompt, tokens, logits)
        truth, length = self._truth(self._said(tokens)), len(self._prompt.ids)
        figures = {"prompt": length, "tokens": len(tokens), "floor": _rounded(floor), "truth": _rounded(truth)}
        return _FullAnswer(tokens, logits, figures)

    def cell(self, row: Row) -> tuple[str, Cell]:
        """Return the strategy's name, and its figures."""
        made = row(self._session, self._item, self._given) if callable(row) else parse(row)
        if isinstance(made, Harvest) and made.name != self._met:
            self._meet(made)
        logits, own, share = self._run(made, self.full.tokens)
        far, said = fidelity(self.full.logits, logits), self._said(own)
        f1 = METRICS["f1"](said, [self._said(self.full.tokens)])
        return row if isinstance(row, str) else made.spec, Cell(
            far.kl, far.kl_max, far.top1, share, f1, self._truth(said)
        )

    def _truth(self, said: str) -> float:
        metrics = self._item.metrics
        return METRICS["f1" if "f1" in metrics else metrics[0]](said, self._item.answers)

    def _said(self, tokens: Sequence[int]) -> str:
        return str(self._ctx.codec.tokenizer.decode(tokens, skip_special_tokens=True))

    def close(self) -> None:
        """Forget the chunks."""
        self._session._open().scratch.clear()  # noqa: SLF001
        self._session.store.clear()
        self._session.chunks.clear()

    def _meet(self, strategy: Strategy) -> None:
        """Let a method that learns from prompts serve the chunks twice, in other orders and for other questions."""
        self._met = strategy.name
        self._ctx.scratch.clear()
        chunks = [each for each, _, _ in self._prompt.chunks]
        for order, question in ((chunks[::-1], "Who is it about?"), (chunks[1::2] + chunks[::2], "Which year was it?")):
            other = replace(self._item, question=question).prompt(order, chat=self._session.has_template)
            prompt = self._session._prompt(other)  # noqa: SLF001
            for _ in RequestRun(self._ctx, strategy, prompt, Sampling(max_new_tokens=1)).pieces():
                pass

    def _run(self, strategy: Strategy, wanted: Sequence[int]) -> tuple[torch.Tensor, list[int], float]:
        """Return logits ``[n, V]`` over full's tokens ``wanted``, the strategy's own greedy ones, its compute share."""
        ctx, n = self._ctx, len(self._prompt.ids)
        request = Request(self._prompt, len(wanted), keep=False)
        prefilled = strategy.prefill(request, ctx)
        task = AnswerTask(strategy, prefilled, request, ctx, Sampling(max_new_tokens=len(wanted)))
        run = prefilled.rows.token_layers + prefilled.select.token_layers
        try:
            with strategy.decoding(prefilled, ctx):
                logits = forced(task, wanted)
                own = self._own(task, logits, wanted)
            if own is None:
                own = greedy(ctx, self._prompt, len(wanted), strategy)
            return logits, own, run / (n * ctx.adapter.n_layers)
        finally:
            strategy.commit(prefilled, request.ids, request, ctx)

    def _own(self, task: AnswerTask, logits: torch.Tensor, wanted: Sequence[int]) -> list[int] | None:
        """Return the strategy's own greedy answer: full's tokens up to where it leaves them, then its own.

        None where it cannot go on from there: what it keeps beside K/V, or has let go of them, has seen full's tokens.
        """
        picked: list[int] = logits.argmax(dim=-1).tolist()
        same = next((i for i, (a, b) in enumerate(zip(picked, wanted, strict=True)) if a != b), None)
        if same is None:
            return list(wanted)
        if not task.strategy.decodes_plainly or self._ctx.adapter.capabilities.states:
            return None
        own, at = picked[: same + 1], len(self._prompt.ids) + task.prefilled.extra
        task.prefilled.cache.truncate(at + same)
        while own[-1] not in self._ctx.eos and len(own) < len(wanted):
            own.append(int(task.step(own[-1], at + len(own) - 1).argmax()))
        return own


def _name(sink: str, text: str) -> str:
    return hashlib.sha256(f"{sink} {text}".encode()).hexdigest()[:16]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
