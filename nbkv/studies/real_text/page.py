"""The page of the tables on real models and real text, made from what was measured: docs/real-text.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from nbkv.studies.real_text.conclusions import blend, head, nearest, ratio_cell
from nbkv.studies.real_text.measurements import MODELS, Row, Table, read
from nbkv.studies.real_text.pictures import OF_SHARE, OF_TIME, save_pictures, to_draw
from nbkv.studies.real_text.verdicts import BUDGET, DEFAULT_SINK, RIVAL, SHARES, alias, first_rows, standing
from nbkv.studies.statistics import interval


def write_page(out: Path) -> None:
    """Write ``out``/real-text.md and its pictures from ``out``/tables/real."""
    tables = read(out / "tables" / "real")
    if tables:
        (out / "real-text.md").write_text(page(tables), "utf-8")
        save_pictures(tables, out / "pictures")


def page(tables: Sequence[Table]) -> str:
    """Return the page."""
    return "\n".join(_page(tables)) + "\n"


def _page(tables: Sequence[Table]) -> Iterator[str]:
    yield "# Chunk strategies on pretrained models and real text"
    yield ""
    yield _HOW
    yield from _asked(tables)
    yield from nearest(tables)
    yield from blend(tables)
    yield from _pictures(tables)
    yield from _standing(tables)
    for table in tables:
        yield from _equal(table)
    for table in tables:
        yield from _one_budget(table)
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
first. An error below the noise floor (full against full with its prefill split elsewhere) is none.

**Rows have different numbers of questions** (*n*, beside every figure): tables grow, one budget first. Two rows are
held against each other only over the questions that have both, and never by their own means. A ratio of errors is told
with its 95 % interval (paired bootstrap over these questions) and the share of questions on which the error was the
smaller one. Each interval is for itself: of many, one in twenty misses by chance."""


def _asked(tables: Sequence[Table]) -> Iterator[str]:
    yield from ("", "## What was asked", "")
    planned = {table.title: table.data.get("planned", MODELS.get(table.data["model"], 0)) for table in tables}
    short = [table for table in tables if len(table.questions) < planned[table.title]]
    if short:
        so_far = ", ".join(f"{len(table.questions)} of {planned[table.title]} ({table.title})" for table in short)
        yield f"**Not finished**: {so_far}. Intervals say how little so few questions decide;"
        yield "`make tables-real` goes on where it was."
        yield ""
    yield from head(
        "model, data", "questions", "with every row", "prompt tokens", "answer tokens", "full's F1", "noise floor"
    )
    for table in tables:
        length, answer, truth, floor = (
            fmean(each[key] for each in table.questions) for key in ("prompt", "tokens", "truth", "floor")
        )
        kinds = sorted({each["kind"] for each in table.questions})
        counts = ", ".join(f"{sum(each['kind'] == kind for each in table.questions)} {kind}" for kind in kinds)
        every = table.n(*table.rows)
        yield f"| {table.title} | {counts} | {every} | {length:.0f} | {answer:.0f} | {truth:.2f} | {floor:.1e} |"


def _pictures(tables: Sequence[Table]) -> Iterator[str]:
    names = [name for name, timed in ((OF_SHARE, False), (OF_TIME, True)) if to_draw(tables, timed=timed)]
    if not names:
        return
    yield from ("", "## Curves", "")
    yield f"Chunks encoded behind `{DEFAULT_SINK}`, over the *n* questions of each table that have all that is drawn."
    yield f"Bands are 95 % intervals, of `{alias()}` and `{RIVAL[1]}` alone: those of all rows are in the tables below."
    for name in names:
        told = "time to first token" if name == OF_TIME else "computed share"
        yield ""
        yield "<picture>"
        yield f'  <source media="(prefers-color-scheme: dark)" srcset="pictures/{name}_dark.png">'
        yield f'  <img alt="KL to full over the {told}, by model and data set" src="pictures/{name}_light.png">'
        yield "</picture>"


def _standing(tables: Sequence[Table]) -> Iterator[str]:
    yield from ("", "## Over all tables", "")
    yield f"KL over that of `{RIVAL[1]}` on chunks encoded behind `{RIVAL[0]}` at the same share, geometric mean over"
    yield f"tables and the shares {', '.join(map(str, SHARES))} (where both were measured in every table)."
    yield ""
    yield from head("sink", "method", "KL / rival's (95 %), questions won, n")
    for (sink, name), mean in standing(tables):
        yield f"| {sink} | {name} | {ratio_cell(mean)} |"


def _equal(table: Table) -> Iterator[str]:
    yield from ("", f"## {table.title}: at equal share, against {RIVAL[1]} behind {RIVAL[0]}", "")
    yield "KL over the rival's (95 %), questions won, and how many questions have the rows of both around the share."
    yield ""
    yield from head("sink", "method", *(f"share {share}" for share in SHARES))
    for method in table.methods():
        found = [table.against(method, RIVAL, share) for share in SHARES]
        if any(found) and method != RIVAL:
            yield f"| {' | '.join(method)} | {' | '.join(ratio_cell(each) for each in found)} |"


def _one_budget(table: Table) -> Iterator[str]:
    name = alias()
    yield from ("", f"## {table.title}: at budget {BUDGET}, against {name} on the same chunks", "")
    yield f"Equally many rows recomputed, so that the shares differ: KL over that of `{name}(budget={BUDGET})`."
    yield ""
    yield from head("sink", "strategy", "share", f"{name}'s share", "KL / its (95 %), questions won, n")
    for row in first_rows(table):
        rival = (row[0], f"{name}(budget={BUDGET})")
        found = table.row_against(row, rival) if row != rival else None
        if found is not None:
            shares = " | ".join(f"{table.share(each, table.asked(row, rival)):.3f}" for each in (row, rival))
            yield f"| {' | '.join(row)} | {shares} | {ratio_cell(found)} |"


def _rows(table: Table) -> Iterator[str]:
    yield from ("", f"## {table.title}: every row", "")
    yield from head("sink", "strategy", "n", "share", "KL", "95 %", "KL, largest", "top-1", "F1", "truth", "TTFT")
    for row in sorted(table.rows, key=lambda row: (row[0], row[1].partition("(")[0], table.share(row))):
        kl = table.figures(row, "kl")
        most, top1, f1, truth = (table.figures(row, name).mean() for name in ("kl_max", "top1", "f1", "truth"))
        speed = f"{table.speeds[row[1]]:.2f}" if row[1] in table.speeds else ""
        yield (
            f"| {' | '.join(row)} | {len(kl)} | {table.share(row):.3f} | {kl.mean():.4f} | {_between(kl)} "
            f"| {most:.3f} | {top1:.3f} | {f1:.3f} | {truth:.2f} | {speed} |"
        )


def _between(kl: np.ndarray) -> str:
    return "{:.4f} to {:.4f}".format(*interval(kl)) if len(kl) > 1 else "–"


def _by_kind(table: Table) -> Iterator[str]:
    kinds = sorted({each["kind"] for each in table.questions})
    masks = [np.array([each["kind"] == kind for each in table.questions]) for kind in kinds]
    yield from ("", f"## {table.title}: KL by hop class", "", "In brackets how many questions.", "")
    yield from head("sink", "strategy", "share", *kinds)
    for row in first_rows(table):
        asked = table.asked(row)
        each = " | ".join(_of_kind(table, row, asked & mask) for mask in masks)
        yield f"| {' | '.join(row)} | {table.share(row):.3f} | {each} |"


def _of_kind(table: Table, row: Row, among: np.ndarray) -> str:
    return f"{table.figures(row, 'kl', among).mean():.4f} ({among.sum()})" if among.any() else ""
