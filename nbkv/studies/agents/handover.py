"""Answers of a real model, handed on once: how far from full what the next agent writes is, by which rows go on.

``python -m nbkv.studies.agents.handover GSM8K.jsonl MODEL [COUNT]`` writes docs/tables/handover.json and what stands
between the two marks in docs/agents.md, and prints the table. A problem of GSM8K is planned by a first agent and
calculated by a second one, in the model's own words; the third agent's prompt has both answers as they were decoded.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.show.marked import marked
from nbkv.strategies.relay import Relay
from nbkv.strategy import Strategy, parse
from nbkv.studies.agents.chains import UnguidedRelay
from nbkv.studies.agents.rivals import TEMPLATE
from nbkv.studies.divergence import trace
from nbkv.studies.statistics import interval

if TYPE_CHECKING:
    import torch

    from nbkv.families.blend.partial import PartialPrefill
    from nbkv.result import Chunk
    from nbkv.session.session import Session

COUNT, PLAN, SUMS, TOKENS = 10, 80, 60, 32  # problems; tokens of both answers; tokens of the third agent's answer
BEGIN, END = "<!-- handover: made by `python -m nbkv.studies.agents.handover` -->", "<!-- end of the handover -->"
_FIRST = ("You make plans for others. Plan how to solve this problem, step by step.\n\n", "\n\nPlan:\n")
_SECOND = ("This is the problem:\n", "\n\nThis is how to go about it:\n", "\n\nThe sums, one after another:\n")
DRAWN = "drawn at random"
_BUDGETS = (0.1, 0.15, 0.35)


@dataclass(kw_only=True, repr=False)
class FirstRows(Relay):
    """RelayCaching that rectifies as many rows as its own, the first ones of all; not registered."""

    @property
    def spec(self) -> str:
        """Return what it is."""
        return "relay, first rows"

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the first rows."""
        return partial.reused[: len(super().select(partial))]


def ways() -> dict[str, list[str | Strategy]]:
    """Return what is measured by name, each at all budgets, and what has none."""
    return {
        "none": ["relay(budget=0)"],
        DRAWN: [UnguidedRelay(budget=budget) for budget in _BUDGETS],
        "the first ones": [FirstRows(budget=budget) for budget in _BUDGETS],
        "most deviation (`relay`)": [Relay(budget=budget) for budget in _BUDGETS],
        "over a threshold (`budget=None`)": ["relay(budget=None)"],
    }


def prompt(session: Session, problem: str) -> list[str | Chunk]:
    """Return the third agent's prompt, once the two before it have answered under ``relay`` behind other words."""
    ahead, begun = _FIRST
    plan = session.generate(f"{ahead}{problem}{begun}", strategy="relay", max_new_tokens=PLAN).chunk("plan")
    ahead, planned, begun = _SECOND
    asked: list[str | Chunk] = [f"{ahead}{problem}{planned}", plan, begun]
    sums = session.generate(asked, strategy="relay", max_new_tokens=SUMS).chunk("sums")
    ahead, planned, summed, begun = TEMPLATE
    return [f"{ahead}{problem}{planned}", plan, summed, sums, begun]


def measure(session: Session, problems: Sequence[str], tokens: int = TOKENS) -> list[dict[str, Any]]:
    """Return a row for each way and budget, with its KL (nats) from full along full's answer to each problem."""
    rows: list[tuple[dict[str, Any], Strategy]] = [
        ({"rows": name, "budget": getattr(one, "budget", None), "kls": []}, one)
        for name, each in ways().items()
        for one in map(parse, each)
    ]
    for problem in problems:
        session.store.clear()
        asked = prompt(session, problem)
        answer = session.generate(asked, strategy="full", max_new_tokens=tokens).token_ids
        full = trace(session, asked, answer, "full")
        for row, one in rows:
            row["kls"].append(trace(session, asked, answer, one).distance(full))
    return [row for row, _ in rows]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown; *nearer*: problems on which as many rows drawn at random are further from full."""
    drawn = {row["budget"]: row["kls"] for row in rows if row["rows"] == DRAWN}
    lines = ["| rows that go on | budget | KL mean | 95 % | nearer than random |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = interval(np.array(row["kls"]))
        other = None if row["rows"] == DRAWN else drawn.get(row["budget"])
        won = sum(one < two for one, two in zip(row["kls"], other or row["kls"], strict=True))
        nearer = f"{won} of {len(row['kls'])}" if other else ""
        budget = "" if row["budget"] is None else f"{row['budget']:g}"
        mean = statistics.fmean(row["kls"])
        lines.append(f"| {row['rows']} | {budget} | {mean:.4f} | {low:.4f} to {high:.4f} | {nearer} |")
    return "\n".join(lines)


def section(data: dict[str, Any]) -> str:
    """Return what docs/agents.md says of the JSON ``data``."""
    return (
        f"Made by `{data['command']}`: `{data['model']}`, {data['problems']} problems, a plan and sums of up to {PLAN} "
        f"and {SUMS} tokens in the model's own words, the third agent's answer along full's first {data['tokens']} "
        f"tokens; the intervals are bootstrap over problems.\n\n{table(data['rows'])}"
    )


def main(path: str, model: str, n: int = COUNT, *, folder: str = "docs") -> str:
    """Measure the first records of the file, write the JSON and the page's section; return the table."""
    import nbkv  # noqa: PLC0415

    lines = Path(path).read_text(encoding="utf-8").splitlines()[:n]
    with nbkv.load(model, strategy="full") as session:
        rows = measure(session, [json.loads(line)["question"] for line in lines])
        about = {"command": f"python -m nbkv.studies.agents.handover GSM8K.jsonl MODEL {n}"}
        data = about | {"model": session.model_name, "problems": n, "tokens": TOKENS, "rows": rows}
    (Path(folder) / "tables" / "handover.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    if (page := Path(folder) / "agents.md").is_file():
        page.write_text(marked(page.read_text(encoding="utf-8"), BEGIN, section(data), END), encoding="utf-8")
    return table(rows)


if __name__ == "__main__":
    given_path, given_model, *count = sys.argv[1:]
    sys.stdout.write(main(given_path, given_model, *map(int, count)) + "\n")
