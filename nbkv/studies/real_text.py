"""Chunk strategies on pretrained models and real text: distance to full over the answer, question by question.

``make tables-real`` runs this module. A question is measured under every row before the next one begins, and what was
measured is written after each, so that a run can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nbkv.context import Context, Request
from nbkv.events import Bus
from nbkv.families.prefix.base import encode
from nbkv.fidelity import fidelity
from nbkv.inference.forced import forced
from nbkv.inference.loop import AnswerTask
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.registry import strategies
from nbkv.session.measure import greedy, noise_floor
from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse
from nbkv.studies.baselines import LexicalRows, RandomRows
from nbkv.studies.oracle import oracle
from nbkv.tasks import hotpotqa, musique
from nbkv.tasks.metrics import METRICS

if TYPE_CHECKING:
    from nbkv.prompts.prompt import Prompt
    from nbkv.tasks.items import Item

MODELS = {"smollm2": 100, "qwen2.5-coder-0.5b": 50}
"""Which models, and how many questions of each data set."""
DATA: dict[str, tuple[str, Callable[..., list[Item]]]] = {
    "hotpotqa": ("hotpotqa_train.json", hotpotqa),
    "musique": ("musique_train.json", musique),
}
SINKS = ("none", "context")
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3)
METHODS = ("cacheblend", "cachecraft", "epic", "influence", "kvshare", "passage", "prophet")
NAIVE = "cacheblend(budget=0)"
PARAGRAPHS = 5
SEED = 0
_LEARNING = ("cachecraft", "kvshare")
_OTHER_SINKS = {"auto": (NAIVE, *(f"{name}(budget=0.15)" for name in ("epic", "influence", "prophet")))}

Row = str | Strategy | Callable[[Session, "Item", list[Any]], Strategy]


@dataclass(frozen=True)
class Cell:
    """One strategy on one question: what its answer was, how far from full's, at what cost.

    ``kl`` and ``kl_max`` are nats over full's greedy tokens, ``top1`` the share of them that it would pick as well,
    ``share`` all token-layers run over prompt x layers, ``f1`` its own greedy answer against full's.
    """

    kl: float
    kl_max: float
    top1: float
    share: float
    f1: float

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the figures' names."""
        return tuple(cls.__dataclass_fields__)


def rows(sink: str, methods: Sequence[str] = METHODS, budgets: Sequence[float] = BUDGETS) -> list[Row]:
    """Return what is measured on chunks encoded behind ``sink``."""
    if sink in _OTHER_SINKS:
        return list(_OTHER_SINKS[sink])
    known = [name for name in methods if name in strategies.names()]
    own_need = ["cachecraft"] if "cachecraft" in known else []  # as much as its CFO says
    every = [f"{name}(budget={budget})" for name in known for budget in budgets]
    return [NAIVE, *every, *own_need, RandomRows(budget=0.15), LexicalRows(budget=0.15), oracle("support")]


def questions(data: str, n: int, folder: Path) -> list[Item]:
    """Return ``n`` questions of ``data``, of ``PARAGRAPHS`` paragraphs each; the first ones of any longer list."""
    file, task = DATA[data]
    return task(folder / file, seed=SEED, chunks=PARAGRAPHS)[:n]


def measure(session: Session, item: Item, sinks: Sequence[str], some: Callable[[str], Sequence[Row]]) -> dict[str, Any]:
    """Return the figures of one question: of ``full``, and by sink and strategy (``"sink strategy"``) each ``Cell``.

    Strategies take turns on the same prompt, whose chunks were encoded before it existed; what stands in front of the
    first chunk is in the store, as a server has it. Nothing of one question is there at the next.
    """
    found: dict[str, Any] = {"kind": item.kind, "name": item.name, "cells": {}}
    full: _FullAnswer | None = None
    for sink in sinks:
        asked = _Asked(session, item, sink, full)
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


class _Asked:
    """One question with its chunks made behind one sink."""

    def __init__(self, session: Session, item: Item, sink: str, full: _FullAnswer | None) -> None:
        self._session, self._item, self._met = session, item, ""
        parts = [session.chunk(text, name=_name(sink, text), sink=sink) for text in item.chunks]
        self._given = item.prompt(parts, chat=session.has_template)
        self._ctx: Context = replace(session._open().for_request(), bus=Bus())  # noqa: SLF001
        self._prompt: Prompt = session._prompt(self._given)  # noqa: SLF001
        encode(self._prompt.ids[: self._prompt.chunks[0][1]], self._ctx)
        self.full = full or self._as_full()

    def _as_full(self) -> _FullAnswer:
        """Return full's answer; its figures are lengths, F1 against the truth and the noise floor."""
        tokens = greedy(self._ctx, self._prompt)
        logits = self._run(parse("full"), tokens)[0]
        floor = noise_floor(self._ctx, self._prompt, tokens, logits)
        truth, length = METRICS["f1"](self._said(tokens), self._item.answers), len(self._prompt.ids)
        figures = {"prompt": length, "tokens": len(tokens), "floor": _rounded(floor), "truth": _rounded(truth)}
        return _FullAnswer(tokens, logits, figures)

    def cell(self, row: Row) -> tuple[str, Cell]:
        """Return the strategy's name, and its figures."""
        made = row(self._session, self._item, self._given) if callable(row) else parse(row)
        if made.name in _LEARNING and made.name != self._met:
            self._meet(made)
        logits, own, share = self._run(made, self.full.tokens)
        far, said = fidelity(self.full.logits, logits), self._said(own)
        f1 = METRICS["f1"](said, [self._said(self.full.tokens)])
        return row if isinstance(row, str) else made.spec, Cell(far.kl, far.kl_max, far.top1, share, f1)

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
                return logits, self._own(task, logits, wanted), run / (n * ctx.adapter.n_layers)
        finally:
            strategy.commit(prefilled, request.ids, request, ctx)

    def _own(self, task: AnswerTask, logits: torch.Tensor, wanted: Sequence[int]) -> list[int]:
        """Return the strategy's own greedy answer: full's tokens up to where it leaves them, then its own."""
        picked: list[int] = logits.argmax(dim=-1).tolist()
        same = next((i for i, (a, b) in enumerate(zip(picked, wanted, strict=True)) if a != b), None)
        if same is None:
            return list(wanted)
        own, at = picked[: same + 1], len(self._prompt.ids) + task.prefilled.extra
        task.prefilled.cache.truncate(at + same)
        while own[-1] not in self._ctx.eos and len(own) < len(wanted):
            own.append(int(task.step(own[-1], at + len(own) - 1).argmax()))
        return own


def _name(sink: str, text: str) -> str:
    return hashlib.sha256(f"{sink} {text}".encode()).hexdigest()[:16]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


@dataclass(frozen=True)
class TableFile:
    """What was measured of one model on one data set: a JSON file of one question after another."""

    path: Path
    about: dict[str, Any]

    def questions(self) -> list[dict[str, Any]]:
        """Return what was measured of each question so far."""
        if not self.path.is_file():
            return []
        known: list[dict[str, Any]] = json.loads(self.path.read_text("utf-8"))["questions"]
        return known

    def write(self, questions: Sequence[dict[str, Any]]) -> None:
        """Write what was measured, one question a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in questions)
        head = json.dumps(self.about | {"figures": Cell.names()})[:-1]
        whole = f'{head}, "questions": [\n{lines}\n]}}\n'
        written = self.path.with_suffix(".part")
        written.write_text(whole, "utf-8")
        written.replace(self.path)


def missing(known: dict[str, Any], sink: str, methods: Sequence[str]) -> list[Row]:
    """Return the rows of ``sink`` that a question lacks."""

    def has(row: Row) -> bool:
        name = row if isinstance(row, str) else "oracle(support)" if callable(row) else row.spec
        return f"{sink} {name}" in known.get("cells", {})

    return [row for row in rows(sink, methods) if not has(row)]


def fill(session: Session, record: TableFile, items: Sequence[Item], methods: Sequence[str] = METHODS) -> Iterator[int]:
    """Measure what ``record`` lacks of ``items``, and yield the number of each question that is complete now."""
    sinks, done = (*SINKS, *_OTHER_SINKS), record.questions()
    for number, item in enumerate(items):
        known: dict[str, Any] = done[number] if number < len(done) else {}
        lacking = {sink: missing(known, sink, methods) for sink in sinks}
        here = [sink for sink in sinks if lacking[sink]]
        if here:
            new = measure(session, item, here, lacking.__getitem__)
            done[number : number + 1] = [new | {"cells": known.get("cells", {}) | new["cells"]}]
            record.write(done)
        yield number


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as asked for, and write docs/tables/real and docs/real-text.md."""
    import nbkv  # noqa: PLC0415
    from nbkv.studies.real_text_page import write_page  # noqa: PLC0415

    asked = _parser().parse_args(arguments)
    tables = Path(asked.out) / "tables" / "real"
    for model in asked.models:
        with nbkv.load(model, strategy="full", dtype=torch.float32) as session:
            for data in asked.data:
                items = questions(data, asked.n or MODELS.get(model, 50), Path(asked.folder))
                name = Path(model).name
                record = TableFile(
                    tables / f"{name}-{data}.json", {"model": name, "data": data, "paragraphs": PARAGRAPHS}
                )
                for number in fill(session, record, items, asked.methods):
                    sys.stderr.write(f"{name} {data}: {number + 1} of {len(items)}\n")
    write_page(Path(asked.out))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbkv.studies.real_text", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("-n", type=int, help="questions of each data set")
    parser.add_argument("--folder", default=os.environ.get("NBKV_DATA", "../shared/data"), help="where the data lie")
    parser.add_argument("--out", default="docs")
    return parser


if __name__ == "__main__":
    main()
