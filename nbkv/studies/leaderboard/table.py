"""The leaderboard's files: ``python -m nbkv.studies.leaderboard.table`` (``make leaderboard``) measures and writes.

docs/tables/leaderboard.json has what was measured on the bundled reader, with the command, the seeds and the versions;
docs/leaderboard.md, docs/pictures/leaderboard_{light,dark}.png and the short table in README.md are made of it and of
docs/tables/real/*.json. ``--again`` makes them from the tables as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from nbkv.models.identity.software import commit, versions
from nbkv.show.marked import marked
from nbkv.studies.leaderboard.committed import committed
from nbkv.studies.leaderboard.contest import COLUMNS, FIGURES, contenders, measured
from nbkv.studies.leaderboard.page import page, short
from nbkv.studies.leaderboard.picture import drawn, pareto, sinks_drawn
from nbkv.studies.leaderboard.standing import standing, widest
from nbkv.studies.real_text.pictures import save

MODEL = "tiny"
TASKS = ("distance 1", "distance 3", "two targets", "report")
BUDGETS = (0.05, 0.15, 0.3)
SEEDS = (201, 202, 203, 204, 205, 206)
SINKS = ("primer", "bos")
N = 2  # questions of each seed and task
BEGIN, END = "<!-- leaderboard: made by `make leaderboard` -->", "<!-- end of the leaderboard -->"


def measurement() -> dict[str, Any]:
    """Measure the bundled reader; return its rows and what they were made with, as leaderboard.json keeps it."""
    import nbkv  # noqa: PLC0415  (not from below itself)

    made_with = versions() | {"commit": commit(), "threads": torch.get_num_threads()}  # as it is before it runs

    def bar(settings: Sequence[Any]) -> Any:  # noqa: ANN401  (as tqdm has it)
        return tqdm(settings, desc="seeds and tasks", mininterval=5)

    with nbkv.load(MODEL, strategy="full") as session:
        who = contenders(session.adapter, BUDGETS)
        frame = measured(session, who.rows, tasks=TASKS, seeds=SEEDS, n=N, sinks=SINKS, steps=bar)
    frame[[*FIGURES]] = frame[[*FIGURES]].map(lambda value: float(f"{value:.4g}"))
    return {
        "command": "make leaderboard",
        "model": MODEL,
        "tasks": TASKS,
        "seeds": SEEDS,
        "n": N,
        "sinks": SINKS,
        "budgets": BUDGETS,
        "made with": made_with,
        "refused": who.refused,
        "columns": COLUMNS,
        "rows": frame.to_numpy().tolist(),
    }


def board(out: Path) -> pd.DataFrame:
    """Return all rows: of ``out``/tables/leaderboard.json, and of the tables on pretrained models."""
    data = json.loads((out / "tables" / "leaderboard.json").read_text("utf-8"))
    fresh = pd.DataFrame(data["rows"], columns=data["columns"])
    return pd.concat([part for part in (fresh, committed(out / "tables" / "real")) if len(part)], ignore_index=True)


def write(out: Path) -> None:
    """Write the page and its pictures from the tables in ``out``/tables."""
    frame, path = board(out), out / "tables" / "leaderboard.json"
    shown = widest(frame)
    standings, sinks = standing(shown), sinks_drawn(shown)
    (out / "leaderboard.md").write_text(page(frame, json.loads(path.read_text("utf-8"))), "utf-8")
    if (readme := out.parent / "README.md").is_file():
        readme.write_text(marked(readme.read_text("utf-8"), BEGIN, short(standing(frame)), END), "utf-8")
    (out / "pictures").mkdir(exist_ok=True)
    save(pareto(standings, sinks, drawn(standings, sinks)), out / "pictures", "leaderboard")


def main(arguments: list[str] | None = None) -> int:
    """Measure unless it is said to be there, and write everything."""
    parser = argparse.ArgumentParser(description="measure the leaderboard and write its table, page and pictures")
    parser.add_argument("--again", action="store_true", help="measure nothing: page and pictures from the tables")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args(arguments)
    tables = given.out / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    if not given.again:
        (tables / "leaderboard.json").write_text(_json(measurement()), "utf-8")
    write(given.out)
    return 0


def _json(data: dict[str, Any]) -> str:
    """Return ``data`` as JSON, a row a line, so that a change of one is one line."""
    head = json.dumps({name: value for name, value in data.items() if name != "rows"}, indent=1)
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in data["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
