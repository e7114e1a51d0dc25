"""The leaderboard as a page: docs/leaderboard.md, made of what was measured."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from nbkv.show.units import nats
from nbkv.studies.leaderboard.picture import sinks_drawn
from nbkv.studies.leaderboard.standing import best, conclusion, standing

WITHIN = (0.2, 0.35)  # computed shares at which the short table has the nearest to full


def page(frame: pd.DataFrame, data: dict[str, Any]) -> str:
    """Return docs/leaderboard.md."""
    return "\n".join(_page(frame, data)) + "\n"


def _page(frame: pd.DataFrame, data: dict[str, Any]) -> Iterator[str]:
    standings = standing(frame)
    made = ", ".join(f"{name} {value}" for name, value in data["made with"].items() if value)
    seeds = ", ".join(map(str, data["seeds"]))
    yield f"""# Leaderboard

Made by `{data["command"]}`; nothing on this page is written by hand. `notebooks/90_leaderboard.ipynb` makes the same
for other models, tasks and budgets.

{conclusion(standings, WITHIN[-1])}

{picture()}

**How to read it.** *Computed*: token-layers run over prompt x layers, those of choosing included. *KL*: nats over
full's own greedy answer, 0 is full. Lower left is better; the *front* is whom nobody behind the same sink beats in
both. `naive` (`cacheblend(budget=0)`) computes nothing again, `random` and `lexical` choose rows without a look at the
model: whoever does not beat them has learned nothing. `full` and `prefix` are exact. *Over random*: KL over that of
random rows at the same computed share, where these were measured on both sides of it. *Sink*: what chunks were encoded
behind (`bos`, `none`: as published).

`{data["model"]}` was measured anew: {", ".join(data["tasks"])}; seeds {seeds}, {data["n"]} questions of each task and
seed; {made}. It is an instrument: it shows that methods do what they say, on a reader and tasks made for each other.
The others are the rows of [real-text.md](real-text.md), {_asked(standings)}. Rows may have different numbers of
questions (*n*): they are held against each other over the questions that both have, and only rows that every question
has are named nearest. Intervals are 95 %: Student's t over seeds, the bootstrap over given questions. One of no width
says that all seeds agree, not that it is certain.

## In short

{short(standings)}

## All rows
"""
    for model, part in standings.groupby("model", sort=False):
        tasks = ", ".join(dict.fromkeys(frame.loc[frame["model"] == model, "task"]))
        yield f"### {model}: {tasks}\n\nMeans over *n* {part['over'].iloc[0]}.\n\n{_table(part)}\n"
    yield "## Who does not take part\n"
    reasons: dict[str, list[str]] = {}
    for name, reason in data["refused"].items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    yield from (f"- {', '.join(names)}: {reason}." for reason, names in reasons.items())


def _asked(standings: pd.DataFrame) -> str:
    """Return of how many questions the rows of given ones are, model by model."""
    given = standings[standings["over"] == "questions"].groupby("model", sort=False)["n"]
    told = [f"{_span(int(n.min()), int(n.max()))} questions ({model})" for model, n in given]
    return f"**of {' and '.join(told)}**" if told else "of which there are none here"


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def picture() -> str:
    """Return the picture as Markdown has it, by the page's theme."""
    source = '<source media="(prefers-color-scheme: dark)" srcset="pictures/leaderboard_dark.png">'
    shown = '<img alt="Distance to full against what is computed, by model" src="pictures/leaderboard_light.png">'
    return f"<picture>\n  {source}\n  {shown}\n</picture>"


def short(standings: pd.DataFrame) -> str:
    """Return the short table in Markdown: by model the rivals, the nearest to full at few shares, and full."""
    sinks = sinks_drawn(standings)
    lines = ["| model | | sink | n | computed | KL | right |", "|---|---|---|---:|---:|---|---|"]
    for model, sink in sinks.items():
        part = standings[(standings["model"] == model) & (standings["sink"] == sink)]
        picked = [part[part["method"] == "naive"], part[part["strategy"] == "random(budget=0.15)"]]
        picked += [best(part, within) for within in WITHIN] + [part[part["strategy"].isin(["prefix", "full"])]]
        for row in pd.concat(picked).drop_duplicates("strategy").to_dict("records"):
            right = between(row, "right", ".2f")
            about = f"{model} | `{row['strategy']}` | {sink} | {row['n']} | {row['share']:.0%}"
            lines.append(f"| {about} | {between(row, 'kl')} | {right} |")
    return "\n".join(lines)


def _table(part: pd.DataFrame) -> str:
    lines = ["| strategy | sink | n | computed | KL | right | over random | front |"]
    lines.append("|---|---|---:|---:|---|---|---:|---|")
    for row in part.sort_values(["sink", "method", "share"]).to_dict("records"):
        over = "" if pd.isna(row["random"]) else f"{row['random']:.2f}"
        about = f"{row['strategy']} | {row['sink']} | {row['n']} | {row['share']:.3f} | {between(row, 'kl')}"
        lines.append(f"| {about} | {between(row, 'right', '.2f')} | {over} | {'front' if row['front'] else ''} |")
    return "\n".join(lines)


def between(row: Mapping[Hashable, Any], figure: str, form: str = "") -> str:
    """Return a figure of a row of ``standing`` with its interval, if it has one; as nats unless ``form`` is given."""
    values = [row[name] for name in (figure, f"{figure}_low", f"{figure}_high")]
    value, low, high = (format(each, form) if form else nats(each) for each in values)
    return value if pd.isna(values[1]) else f"{value} ({low} to {high})"
