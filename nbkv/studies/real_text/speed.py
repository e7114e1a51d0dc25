"""Time to first token of every row of the real tables, side by side with full's, in one run on a quiet machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbkv.families.blend.harvest import Harvest
from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse

if TYPE_CHECKING:
    from nbkv.tasks.items import Item

SINK = "context"  # what a chunk is encoded behind changes no time: it is dropped


def speeds(session: Session, items: Sequence[Item], rows: Sequence[str], rounds: int = 2) -> dict[str, float]:
    """Return by row how many times sooner than full's its first token comes, the median over ``items``.

    Rows take turns on each question, ``rounds`` times; the best time of each counts. Methods that learn from prompts
    are left out: their time depends on what they have met.
    """
    timed = [row for row in rows if not isinstance(parse(row), Harvest)]
    ratios: dict[str, list[float]] = {row: [] for row in timed}
    for item in items:
        parts = [session.chunk(text, name=f"part {i}", sink=SINK) for i, text in enumerate(item.chunks)]
        prompt = item.prompt(parts, chat=session.has_template)
        best: dict[str, float] = {}
        for _ in range(rounds):
            for row in ("full", *timed):
                took = _ttft(session, prompt, parse(row))
                best[row] = min(took, best.get(row, took))
        for row in timed:
            ratios[row].append(best["full"] / best[row])
        session.store.clear()
        session.chunks.clear()
    return {row: round(statistics.median(each), 2) for row, each in ratios.items()}


def _ttft(session: Session, prompt: object, strategy: Strategy) -> float:
    return float(session.generate(prompt, strategy=strategy, max_new_tokens=1).timing.ttft_s)  # type: ignore[arg-type]


def write_speeds(path: Path, found: dict[str, float], about: dict[str, object]) -> None:
    """Write ``found`` beside what it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"ttft": found}, indent=1) + "\n", "utf-8")


def read_speeds(path: Path) -> dict[str, float]:
    """Return what was written; empty where nothing was."""
    known: dict[str, float] = json.loads(path.read_text("utf-8"))["ttft"] if path.is_file() else {}
    return known
