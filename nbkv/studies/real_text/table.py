"""Chunk strategies on pretrained models and real text: distance to full over the answer, question by question.

``make tables-real`` runs this module. A question is measured under every row before the next one begins, and what was
measured is written after each, so that a run can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nbkv.registry import strategies
from nbkv.session.session import Session
from nbkv.studies.answers import Cell, Row, measure, own_rule
from nbkv.studies.baselines import LexicalRows, RandomRows
from nbkv.studies.oracle import oracle
from nbkv.studies.real_text.measurements import MODELS
from nbkv.studies.real_text.speed import SINK, speeds, write_speeds
from nbkv.tasks import hotpotqa, musique

if TYPE_CHECKING:
    from nbkv.tasks.items import Item

DATA: dict[str, tuple[str, Callable[..., list[Item]]]] = {
    "hotpotqa": ("hotpotqa_train.json", hotpotqa),
    "musique": ("musique_train.json", musique),
}
SINKS = ("none", "context")
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3)
METHODS = ("cacheblend", "cachecraft", "epic", "influence", "kvshare", "offset", "passage", "prophet")
NAIVE = "cacheblend(budget=0)"
PARAGRAPHS = 5
SEED = 0
_OTHER_SINKS = {"primer": (NAIVE, *(f"{name}(budget=0.15)" for name in ("epic", "influence", "prophet")))}


def rows(sink: str, methods: Sequence[str] = METHODS, budgets: Sequence[float] = BUDGETS) -> list[Row]:
    """Return what is measured on chunks encoded behind ``sink``."""
    if sink in _OTHER_SINKS:
        return list(_OTHER_SINKS[sink])
    known = [name for name in methods if name in strategies.names()]
    every: list[Row] = []
    for name in known:  # its rows one after another: what learns from prompts then meets the chunks once
        every += [f"{name}(budget={budget})" for budget in budgets] + ([name] if own_rule(name) else [])
    return [NAIVE, *every, RandomRows(budget=0.15), LexicalRows(budget=0.15), oracle("support")]


def questions(data: str, n: int, folder: Path) -> list[Item]:
    """Return ``n`` questions of ``data``, of ``PARAGRAPHS`` paragraphs each; the first ones of any longer list."""
    file, task = DATA[data]
    return task(folder / file, seed=SEED, chunks=PARAGRAPHS)[:n]


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


def missing(known: dict[str, Any], sink: str, methods: Sequence[str], budgets: Sequence[float] = BUDGETS) -> list[Row]:
    """Return the rows of ``sink`` that a question lacks."""

    def has(row: Row) -> bool:
        name = row if isinstance(row, str) else "oracle(support)" if callable(row) else row.spec
        return f"{sink} {name}" in known.get("cells", {})

    return [row for row in rows(sink, methods, budgets) if not has(row)]


def fill(
    session: Session,
    record: TableFile,
    items: Sequence[Item],
    methods: Sequence[str] = METHODS,
    budgets: Sequence[float] = BUDGETS,
) -> Iterator[int]:
    """Measure what ``record`` lacks of ``items``, and yield the number of each question that is complete now."""
    sinks, done = (*SINKS, *_OTHER_SINKS), record.questions()
    for number, item in enumerate(items):
        known: dict[str, Any] = done[number] if number < len(done) else {}
        lacking = {sink: missing(known, sink, methods, budgets) for sink in sinks}
        here = [sink for sink in sinks if lacking[sink]]
        if here:
            new = measure(session, item, here, lacking.__getitem__)
            done[number : number + 1] = [new | {"cells": known.get("cells", {}) | new["cells"]}]
            record.write(done)
        yield number


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as asked for, and write docs/tables/real and docs/real-text.md."""
    import nbkv  # noqa: PLC0415
    from nbkv.studies.real_text.page import write_page  # noqa: PLC0415

    asked = _parser().parse_args(arguments)
    tables = Path(asked.out) / "tables" / "real"
    for model in () if asked.again else asked.models:
        with nbkv.load(model, strategy="full", dtype=torch.float32) as session:
            for data in asked.data:
                items = questions(data, asked.n or MODELS.get(model, 50), Path(asked.folder))
                name = Path(model).name
                record = TableFile(
                    tables / f"{name}-{data}.json", {"model": name, "data": data, "paragraphs": PARAGRAPHS}
                )
                if asked.speed:
                    _time(session, items[: asked.speed], tables / "speed" / f"{name}-{data}.json")
                    continue
                for number in fill(session, record, items, asked.methods, asked.budgets):
                    sys.stderr.write(f"{name} {data}: {number + 1} of {len(items)}\n")
    write_page(Path(asked.out))


def _time(session: Session, items: Sequence[Item], path: Path) -> None:
    timed = [row for row in rows(SINK) if isinstance(row, str)]
    about = {"questions": len(items), "threads": torch.get_num_threads(), "device": str(session.adapter.device)}
    write_speeds(path, speeds(session, items, timed), about)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbkv.studies.real_text.table", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("-n", type=int, help="questions of each data set")
    parser.add_argument("--speed", type=int, default=0, help="measure the time to first token on so many, nothing else")
    parser.add_argument("--again", action="store_true", help="measure nothing: page and pictures from the tables")
    parser.add_argument("--folder", default=os.environ.get("NBKV_DATA", "../shared/data"), help="where the data lie")
    parser.add_argument("--out", default="docs")
    return parser


if __name__ == "__main__":
    main()
