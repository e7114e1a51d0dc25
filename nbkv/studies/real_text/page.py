"""The page of the tables on real models and real text, made from what was measured: docs/real-text.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.studies.real_text.equal_share import Point, Ratio, at_share, ratio
from nbkv.studies.real_text.speed import read_speeds
from nbkv.studies.statistics import interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIVAL = ("none", "prophet")
"""The published method that others are held against: ProphetKV's selection, on chunks encoded alone."""
SHARES = (0.15, 0.2, 0.25)
"""Compute shares at which methods are compared."""


@dataclass(frozen=True, eq=False)
class Table:
    """What was measured of one model on one data set (a file that ``real_text.table.TableFile`` wrote)."""

    data: dict[str, Any]
    speeds: dict[str, float]

    @property
    def title(self) -> str:
        """Return model and data set."""
        return f"{self.data['model']}, {self.data['data']}"

    @property
    def questions(self) -> list[dict[str, Any]]:
        """Return the questions."""
        found: list[dict[str, Any]] = self.data["questions"]
        return found

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        """Return sink and strategy of each row that every question has."""
        names = [name for name in self.questions[0]["cells"] if all(name in each["cells"] for each in self.questions)]
        return [(sink, strategy) for sink, _, strategy in (name.partition(" ") for name in names)]

    def figures(self, cell: tuple[str, str], figure: str) -> NDArray[np.float64]:
        """Return one figure ``[n]`` of a row, of each question."""
        at = self.data["figures"].index(figure)
        return np.array([each["cells"][" ".join(cell)][at] for each in self.questions], dtype=np.float64)

    def share(self, cell: tuple[str, str]) -> float:
        """Return the mean compute share of a row."""
        return float(self.figures(cell, "share").mean())

    def curve(self, sink: str, method: str) -> list[Point]:
        """Return a method's rows with a budget, on chunks encoded behind ``sink``."""
        own = [cell for cell in self.cells if cell[0] == sink and cell[1].startswith(f"{method}(budget=")]
        own = [cell for cell in own if not cell[1].endswith("=0)")]
        return [Point(self.share(cell), self.figures(cell, "kl")) for cell in own]

    def methods(self) -> list[tuple[str, str]]:
        """Return sink and name of each method that has several budgets."""
        names = dict.fromkeys((sink, strategy.partition("(")[0]) for sink, strategy in self.cells)
        return [name for name in names if len(self.curve(*name)) > 1]

    def against(self, method: tuple[str, str], rival: tuple[str, str], share: float) -> Ratio | None:
        """Return how a method compares to another at an equal share; None where one was not measured around it."""
        mine, other = (at_share(self.curve(*name), share) for name in (method, rival))
        return None if mine is None or other is None else ratio(mine, other)


def read(folder: Path) -> list[Table]:
    """Return the tables in ``folder`` that have a question, by model and data set."""
    found = [
        Table(json.loads(path.read_text("utf-8")), read_speeds(folder / "speed" / path.name))
        for path in sorted(folder.glob("*.json"))
    ]
    return [table for table in found if table.data.get("questions")]


def standing(tables: Sequence[Table]) -> list[tuple[tuple[str, str], float]]:
    """Return each method and its mean ratio to the rival, best first, of those that every table can compare.

    The geometric mean over tables and over ``SHARES`` at which both were measured in every table.
    """
    ranked = []
    for method in tables[0].methods():
        ratios = [[table.against(method, RIVAL, share) for table in tables] for share in SHARES]
        usable = [one.ratio for row in ratios if all(row) for one in row if one is not None]
        if usable:
            ranked.append((method, exp(fmean(log(max(each, 1e-9)) for each in usable))))
    return sorted(ranked, key=lambda each: each[1])


def write_page(out: Path) -> None:
    """Write ``out``/real-text.md from ``out``/tables/real."""
    tables = read(out / "tables" / "real")
    if tables:
        (out / "real-text.md").write_text(page(tables), "utf-8")


def page(tables: Sequence[Table]) -> str:
    """Return the page."""
    return "\n".join(_page(tables)) + "\n"


def _page(tables: Sequence[Table]) -> Iterator[str]:
    yield "# Chunk strategies on pretrained models and real text"
    yield ""
    yield _HOW
    yield from _asked(tables)
    yield from _standing(tables)
    for table in tables:
        yield from _equal(table)
    for table in tables:
        yield from _rows(table)
        yield from _by_kind(table)


_HOW = """Made by `make tables-real` from `docs/tables/real/*.json`; nothing on this page is written by hand.

Each question is a chat message: an instruction, five paragraphs (those that support the answer, and distractors,
shuffled), the question. Paragraphs are chunks, encoded before the prompt exists; what stands in front of the first one
is in the store. *KL*: KL(full || strategy) in nats, mean over full's greedy answer (up to 32 tokens, forced), then over
questions, with the 95 % bootstrap interval over questions. *Top-1*: the share of these tokens that the strategy would
pick too. *F1*, *truth*: F1 of its own greedy answer against full's, and against the expected one. *Share*: token-layers
run over prompt x layers, selection passes included. *TTFT*: full's time to first token over the strategy's, in a run of
its own. *Sink*: what a chunk is encoded behind: `none`, `primer` (a few neutral sentences), `context` (a chat's opening
and two neutral passages; what `auto` chooses on these models).

`cacheblend(budget=0)` is naive reuse. `random` and `lexical` (sentences that share the question's rare words) look at
no model; `oracle` runs the supporting paragraphs again. `cachecraft` and `kvshare` met the chunks in two other prompts
first. An error below the noise floor (full against full with its prefill split elsewhere) is none."""


def _asked(tables: Sequence[Table]) -> Iterator[str]:
    yield from ("", "## What was asked", "")
    short = [table for table in tables if len(table.questions) < table.data.get("planned", 0)]
    if short:
        so_far = ", ".join(f"{len(table.questions)} of {table.data['planned']} ({table.title})" for table in short)
        yield f"**Not finished**: {so_far}. Intervals say how little so few questions decide;"
        yield "`make tables-real` goes on where it was."
        yield ""
    yield from _head("model, data", "questions", "prompt tokens", "answer tokens", "full's F1", "noise floor")
    for table in tables:
        length, answer, truth, floor = (
            fmean(each[key] for each in table.questions) for key in ("prompt", "tokens", "truth", "floor")
        )
        kinds = sorted({each["kind"] for each in table.questions})
        counts = ", ".join(f"{sum(each['kind'] == kind for each in table.questions)} {kind}" for kind in kinds)
        yield f"| {table.title} | {counts} | {length:.0f} | {answer:.0f} | {truth:.2f} | {floor:.1e} |"


def _standing(tables: Sequence[Table]) -> Iterator[str]:
    yield from ("", "## Over all tables", "")
    yield f"KL over that of `{RIVAL[1]}` on chunks encoded behind `{RIVAL[0]}` at the same share, geometric mean over"
    yield f"tables and the shares {', '.join(map(str, SHARES))} (where both were measured in every table)."
    yield ""
    yield from _head("sink", "method", "KL / rival's")
    for (sink, name), mean in standing(tables):
        yield f"| {sink} | {name} | {mean:.2f} |"


def _equal(table: Table) -> Iterator[str]:
    yield from ("", f"## {table.title}: at equal share, against {RIVAL[1]} behind {RIVAL[0]}", "")
    yield "KL over the rival's with its 95 % interval (paired bootstrap over questions); share of questions won."
    yield ""
    yield from _head("sink", "method", *(f"share {share}" for share in SHARES))
    for method in table.methods():
        found = [table.against(method, RIVAL, share) for share in SHARES]
        if any(found) and method != RIVAL:
            yield f"| {' | '.join(method)} | {' | '.join(map(_ratio, found))} |"


def _ratio(found: Ratio | None) -> str:
    return "" if found is None else f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f}), {found.wins:.0%}"


def _rows(table: Table) -> Iterator[str]:
    yield from ("", f"## {table.title}: every row", "")
    yield from _head("sink", "strategy", "share", "KL", "95 %", "KL, largest", "top-1", "F1", "truth", "TTFT")
    for cell in sorted(table.cells, key=lambda cell: (cell[0], cell[1].partition("(")[0], table.share(cell))):
        kl = table.figures(cell, "kl")
        low, high = interval(kl)
        most, top1, f1, truth = (table.figures(cell, name).mean() for name in ("kl_max", "top1", "f1", "truth"))
        speed = f"{table.speeds[cell[1]]:.2f}" if cell[1] in table.speeds else ""
        yield (
            f"| {' | '.join(cell)} | {table.share(cell):.3f} | {kl.mean():.4f} | {low:.4f} to {high:.4f} "
            f"| {most:.3f} | {top1:.3f} | {f1:.3f} | {truth:.2f} | {speed} |"
        )


def _by_kind(table: Table) -> Iterator[str]:
    kinds = sorted({each["kind"] for each in table.questions})
    masks = [np.array([each["kind"] == kind for each in table.questions]) for kind in kinds]
    yield from ("", f"## {table.title}: KL by hop class", "")
    yield from _head("sink", "strategy", "share", *kinds)
    for cell in table.cells:
        if cell[1].endswith(("=0)", "=0.15)", "(support)")):
            kl = table.figures(cell, "kl")
            each = " | ".join(f"{kl[mask].mean():.4f}" for mask in masks)
            yield f"| {' | '.join(cell)} | {table.share(cell):.3f} | {each} |"


def _head(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
