"""Decisions under reuse: how often a strategy decides as full does, beside how often it is right.

``python -m nbkv.studies.decisions.table`` measures and writes docs/tables/decisions.json and docs/decisions.md. A judge
whose accuracy is that of full may still decide otherwise, one question for another; accuracy does not show it
(judge consistency, arXiv 2601.08343).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nbkv.session.session import Session
from nbkv.studies.decisions.option_odds import Decision, best_paragraph, decisions
from nbkv.studies.decisions.rivals import picks
from nbkv.tasks import hotpotqa, judge, last_words, ledger, tool_choice
from nbkv.tasks.choices.choice import Choice

NAIVE = "cacheblend(budget=0)"
SINKS = {
    "none": (NAIVE, "epic(budget=0.15)", "cacheblend(budget=0.15)"),
    "bos": (NAIVE, "epic(budget=0.15)", "cacheblend(budget=0.15)", "prophet(budget=0.15)"),
    "context": (NAIVE, "influence(budget=0.15)"),
    "primer": (NAIVE, "influence(budget=0.15)"),
}
"""What is measured on chunks by what they were encoded behind."""
DATA = "hotpotqa_train.json"
PARAGRAPHS = 5
Measure = Callable[[Session, Choice, Sequence[tuple[str, str]]], dict[str, Decision]]


@dataclass(frozen=True)
class DecisionTask:
    """What is decided: a task of one model, ``n`` questions of it, with chunks behind each of ``sinks``."""

    name: str
    model: str
    n: int
    sinks: tuple[str, ...]

    def items(self, folder: Path) -> list[Choice]:
        """Return its questions."""
        made: dict[str, Callable[[], list[Choice]]] = {
            "currency": lambda: last_words(ledger(seed=101, n=self.n), seed=101),
            "tool": lambda: tool_choice(n=self.n),
            "judge": lambda: judge(folder / DATA, n=self.n),
            "rerank": lambda: paragraphs(folder / DATA, self.n),
        }
        return made[self.name]()

    @property
    def measure(self) -> Measure:
        """Return what finds out the decisions on one question."""
        return best_paragraph if self.name == "rerank" else decisions

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Return what is measured beside full, as ``(sink, strategy)``."""
        return [(sink, method) for sink in self.sinks for method in SINKS[sink]]


TASKS = (
    DecisionTask("currency", "tiny", 64, ("bos", "primer")),
    DecisionTask("tool", "smollm2", 32, ("none", "context")),
    DecisionTask("judge", "smollm2", 48, ("none", "context")),
    DecisionTask("rerank", "smollm2", 48, ("none", "context")),
    DecisionTask("tool", "qwen2.5-coder-0.5b", 32, ("none", "context")),
    DecisionTask("judge", "qwen2.5-coder-0.5b", 48, ("none", "context")),
)


def paragraphs(path: Path, n: int) -> list[Choice]:
    """Return ``n`` questions of HotpotQA whose options are their paragraphs; ``right`` is the first supporting one."""
    found = []
    for item in hotpotqa(path, n=n, chunks=PARAGRAPHS):
        titles = tuple(text.partition("\n")[0] for text in item.chunks)
        more: dict[str, Any] = {"options": titles, "right": item.hops[0], "name": item.question}
        found.append(Choice(item.chunks, item.question, item.answers, "rerank", item.oracle, **more))
    return found


def is_right(item: Choice, pick: int) -> bool:
    """Return whether ``pick`` is right: of paragraphs each that supports the question is."""
    return pick in item.hops if item.kind == "rerank" else pick == item.right


def measure(session: Session, task: DecisionTask, items: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    """Yield for each question, of full, each row and each rival: pick, whether right, share computed, odds moved."""
    for number, item in enumerate(items):
        made = task.measure(session, item, task.rows)
        cells: dict[str, Any] = {
            name: [each.pick, is_right(item, each.pick), round(each.share, 4), moved(each, made["full"])]
            for name, each in made.items()
        }
        cells |= {name: [pick, is_right(item, pick), 0.0, None] for name, pick in picks(item, number).items()}
        yield {"options": len(item.options), "cells": cells}


def moved(mine: Decision, full: Decision) -> float:
    """Return the total variation between both decisions' odds as probabilities: 0 for the same, at most 1."""
    first, second = (torch.tensor(each.odds, dtype=torch.float64).softmax(0) for each in (mine, full))
    return round(float((first - second).abs().sum()) / 2, 4)


def wilson(right: Sequence[bool]) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which is also one where all or none are right."""
    n, z = len(right), 1.96
    share = sum(right) / n
    middle, half = share + z * z / (2 * n), z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def summary(questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict a row: accuracy and equal decisions with their intervals, and which way decisions changed."""
    found = []
    for name in questions[0]["cells"]:
        cells = [(each["cells"][name], each["cells"]["full"]) for each in questions]
        right, full = [bool(mine[1]) for mine, _ in cells], [bool(other[1]) for _, other in cells]
        equal = [mine[0] == other[0] for mine, other in cells]
        both = list(zip(right, full, strict=True))
        far = [mine[3] for mine, _ in cells if mine[3] is not None]
        found.append(
            {
                "row": name,
                "right": _share(right),
                "equal": _share(equal),
                "lost": sum(was and not now for now, was in both),
                "won": sum(now and not was for now, was in both),
                "share": round(float(np.mean([mine[2] for mine, _ in cells])), 4),
                "moved": round(float(np.mean(far)), 4) if far else None,
            }
        )
    return found


def _share(values: Sequence[bool]) -> list[float]:
    low, high = wilson(values)
    return [round(sum(values) / len(values), 4), round(low, 3), round(high, 3)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the tasks asked for, keep those of the file that were not, and write file and page."""
    import nbkv  # noqa: PLC0415
    from nbkv.studies.decisions.page import page  # noqa: PLC0415

    asked = _parser().parse_args(arguments)
    path = Path(asked.out) / "tables" / "decisions.json"
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in TASKS:
        name = f"{each.name} {each.model}"
        if asked.only and name not in asked.only:
            continue
        task = replace(each, n=asked.n or each.n, sinks=tuple(asked.sinks or each.sinks))
        with nbkv.load(task.model, strategy="full", dtype=torch.float32) as session:
            questions = []
            for question in measure(session, task, task.items(Path(asked.folder))):
                questions.append(question)
                about = {"task": task.name, "model": task.model, "n": len(questions), "options": question["options"]}
                known[name] = about | {"rows": summary(questions)}
                path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
                sys.stderr.write(f"{name}: {len(questions)}\n")
    (Path(asked.out) / "decisions.md").write_text(page(known), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbkv.studies.decisions.table", description=__doc__)
    parser.add_argument("--only", nargs="+", help="such as 'tool smollm2'; the others stay as they were measured")
    parser.add_argument("-n", type=int, help="questions of each task; stopped, what was measured so far is kept")
    parser.add_argument("--sinks", nargs="+", choices=list(SINKS), help="what chunks are encoded behind")
    parser.add_argument("--folder", default=os.environ.get("NBKV_DATA", "../shared/data"), help="where the data lie")
    parser.add_argument("--out", default="docs")
    return parser


if __name__ == "__main__":
    main()
