"""The leaderboard's files: ``python -m nbkv.studies.leaderboard.table`` (``make leaderboard``) measures and writes them.

docs/tables/leaderboard.json has what was measured on the bundled reader, with the command, the seeds and the versions;
docs/leaderboard.md and docs/pictures/leaderboard_{light,dark}.png are made of it and of docs/tables/real/*.json.
``--again`` makes them from the tables as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from nbkv.models.identity.software import commit, versions
from nbkv.show.units import nats
from nbkv.studies.leaderboard.committed import committed
from nbkv.studies.leaderboard.contest import COLUMNS, FIGURES, field, measured
from nbkv.studies.leaderboard.picture import drawn, pareto, save
from nbkv.studies.leaderboard.standing import best, conclusion, standing

MODEL = "tiny"
TASKS = ("distance 1", "distance 3", "two targets", "report")
BUDGETS = (0.05, 0.15, 0.3)
SEEDS = (201, 202, 203, 204, 205)
SINKS = ("primer", "bos")
N = 1  # questions of each seed and task
WITHIN = (0.2, 0.35)  # computed shares at which the short table has the nearest to full
PREFERRED = ("primer", "context", "bos", "none")
"""Behind what the chunks of the picture were encoded, the first that a model was measured with; all are in the table."""


def measurement() -> dict[str, Any]:
    """Measure the bundled reader; return its rows and what they were made with, as leaderboard.json keeps it."""
    import nbkv  # noqa: PLC0415  (not from below itself)

    with nbkv.load(MODEL, strategy="full") as session:
        grid = {"tasks": TASKS, "seeds": SEEDS, "n": N, "sinks": SINKS}
        who = field(session.adapter, BUDGETS)
        frame = measured(session, who.rows, **grid, steps=lambda all_: tqdm(all_, desc="leaderboard", mininterval=5))
    frame[[*FIGURES]] = frame[[*FIGURES]].map(lambda value: float(f"{value:.4g}"))
    return {
        "command": "make leaderboard",
        "model": MODEL,
        **grid,
        "budgets": BUDGETS,
        "made with": versions() | {"commit": commit(), "threads": torch.get_num_threads()},
        "refused": who.refused,
        "columns": COLUMNS,
        "rows": frame.to_numpy().tolist(),
    }


def board(out: Path) -> pd.DataFrame:
    """Return all rows: of ``out``/tables/leaderboard.json, and of the tables on pretrained models."""
    data = json.loads((out / "tables" / "leaderboard.json").read_text("utf-8"))
    fresh = pd.DataFrame(data["rows"], columns=data["columns"])
    return pd.concat([part for part in (fresh, committed(out / "tables" / "real")) if len(part)], ignore_index=True)


def sinks_drawn(frame: pd.DataFrame) -> dict[str, str]:
    """Return by model behind what the chunks of the picture were encoded."""
    known = {str(model): {*part["sink"]} for model, part in frame.groupby("model", sort=False)}
    ordered = {model: [each for each in PREFERRED if each in sinks] + sorted(sinks) for model, sinks in known.items()}
    real = {model: "context" for model, sinks in known.items() if "context" in sinks}
    return {model: every[0] for model, every in ordered.items()} | real


def page(frame: pd.DataFrame, data: dict[str, Any]) -> str:
    """Return docs/leaderboard.md."""
    return "\n".join(_page(frame, data)) + "\n"


def _page(frame: pd.DataFrame, data: dict[str, Any]) -> Iterator[str]:
    standings = standing(frame)
    made = ", ".join(f"{name} {value}" for name, value in data["made with"].items() if value)
    seeds = ", ".join(map(str, data["seeds"]))
    yield f"""# Leaderboard

Made by `{data["command"]}`; nothing on this page is written by hand. `notebooks/90_leaderboard.ipynb` makes the same for
other models, tasks and budgets.

{conclusion(standings, WITHIN[-1])}

{picture()}

**How to read it.** *Computed*: token-layers run over prompt x layers, those of choosing included. *KL*: nats over full's
own greedy answer, 0 is full. Lower left is better; the *front* is whom nobody beats in both, behind the same sink. `naive`
computes nothing again, `random` and `lexical` choose rows without a look at the model: whoever does not beat them has
learned nothing. `full` and `prefix` are exact. *Over random*: KL over that of random rows at the same computed share, where
these were measured on both sides of it. *Sink*: what chunks were encoded behind (`bos`, `none`: as published).

`{data["model"]}` was measured anew ({", ".join(data["tasks"])}; seeds {seeds}, {data["n"]} question of each task and seed;
{made}). It is an instrument: it shows that methods do what they say, on a reader and tasks made for each other. The others
are the rows of [real-text.md](real-text.md), **of few questions so far**. Intervals are 95 %: Student's t over seeds,
the bootstrap over given questions. One of no width says that all seeds agree, not that it is certain.

## In short

{short(standings)}

## All rows
"""
    for model, part in standings.groupby("model", sort=False):
        tasks = ", ".join(dict.fromkeys(frame.loc[frame["model"] == model, "task"]))
        yield f"### {model}: {tasks}\n\nMeans over {part['n'].iloc[0]} {part['over'].iloc[0]}.\n\n{_table(part)}\n"
    yield "## Who does not take part\n"
    reasons: dict[str, list[str]] = {}
    for name, reason in data["refused"].items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    yield from (f"- {', '.join(names)}: {reason}." for reason, names in reasons.items())


def picture() -> str:
    """Return the picture as Markdown has it, by the page's theme."""
    source = '<source media="(prefers-color-scheme: dark)" srcset="pictures/leaderboard_dark.png">'
    shown = '<img alt="Distance to full against what is computed, by model" src="pictures/leaderboard_light.png">'
    return f"<picture>\n  {source}\n  {shown}\n</picture>"


def short(standings: pd.DataFrame) -> str:
    """Return the short table in Markdown: by model the rivals, the nearest to full at few shares, and full."""
    sinks = sinks_drawn(standings)
    lines = ["| model | | sink | computed | KL | right |", "|---|---|---|---:|---|---|"]
    for model, sink in sinks.items():
        part = standings[(standings["model"] == model) & (standings["sink"] == sink)]
        picked = [part[part["method"] == "naive"], part[part["strategy"] == "random(budget=0.15)"]]
        picked += [best(part, within) for within in WITHIN] + [part[part["strategy"].isin(["prefix", "full"])]]
        for row in pd.concat(picked).drop_duplicates("strategy").to_dict("records"):
            right = _between(row, "right", ".2f")
            about = f"{model} | `{row['strategy']}` | {sink} | {row['share']:.0%}"
            lines.append(f"| {about} | {_between(row, 'kl')} | {right} |")
    return "\n".join(lines)


def _table(part: pd.DataFrame) -> str:
    lines = ["| strategy | sink | computed | KL | right | over random | front |", "|---|---|---:|---|---|---:|---|"]
    for row in part.sort_values(["sink", "method", "share"]).to_dict("records"):
        over = "" if pd.isna(row["random"]) else f"{row['random']:.2f}"
        about = f"{row['strategy']} | {row['sink']} | {row['share']:.3f} | {_between(row, 'kl')}"
        lines.append(f"| {about} | {_between(row, 'right', '.2f')} | {over} | {'front' if row['front'] else ''} |")
    return "\n".join(lines)


def _between(row: dict[str, Any], figure: str, form: str = "") -> str:
    values = [row[name] for name in (figure, f"{figure}_low", f"{figure}_high")]
    value, low, high = (format(each, form) if form else nats(each) for each in values)
    return value if pd.isna(values[1]) else f"{value} ({low} to {high})"


def write(out: Path) -> None:
    """Write the page and its pictures from the tables in ``out``/tables."""
    frame, path = board(out), out / "tables" / "leaderboard.json"
    standings, sinks = standing(frame), sinks_drawn(frame)
    (out / "leaderboard.md").write_text(page(frame, json.loads(path.read_text("utf-8"))), "utf-8")
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
