"""Chains of agents with known answers under agent strategies: what is right and reused beside full.

``python -m nbkv.studies.agents.chains [MODEL ...]`` writes docs/tables/agents.json and docs/agents-measured.md. Every
strategy runs the same chains from the first agent to the last, so what it gets wrong is handed on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbkv.session.pipelines.evaluation import evaluate_agents
from nbkv.strategies.relay import Relay
from nbkv.strategy import Strategy, parse
from nbkv.studies.statistics import interval
from nbkv.tasks.chains.agents import TELLER, AgentTask, agents

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.families.blend.partial import PartialPrefill
    from nbkv.session.session import Session


@dataclass(kw_only=True, repr=False)
class UnguidedRelay(Relay):
    """RelayCaching that rectifies as many rows as its own, drawn at random; not registered."""

    @property
    def spec(self) -> str:
        """Return what it is."""
        return "relay, random rows"

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return rows drawn anew for each prompt, the same ones each time it is asked."""
        chosen, rows = super().select(partial), partial.reused
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(partial.length))
        return rows[drawn[: len(chosen)].to(rows.device)].sort()[0]


FULL = "full"
RELAY: tuple[str | Strategy, ...] = (
    FULL,
    "relay(budget=0)",
    UnguidedRelay(),
    "relay",
    "relay(budget=0.35)",
    "relay(budget=None)",
)
KVCOMM: tuple[str | Strategy, ...] = (FULL, "kvcomm")
WARM = 0.5  # of the chains leave anchors; the others are counted


@dataclass(frozen=True)
class ChainSet:
    """Chains of one model: ``sizes`` are arguments of ``nbkv.tasks.agents``; ``slots``: inputs are given as chunks."""

    model: str
    strategies: tuple[str | Strategy, ...]
    sizes: dict[str, Any]
    slots: bool = False

    @property
    def name(self) -> str:
        """Return what the set is called in the table."""
        return f"{self.model} {'kvcomm' if self.slots else 'relay'}"

    def tasks(self, session: Session, n: int | None) -> list[AgentTask]:
        """Return the chains, or the first ``n`` of them."""
        made = agents(**self.sizes | ({} if n is None else {"n": n}))
        return [replace(task, inputs=_chunks(session, task)) for task in made] if self.slots else made

    def counted(self, n: int) -> int:
        """Return from which of ``n`` chains on they count."""
        return int(n * WARM) if self.slots else 0


_NOTES: dict[str, Any] = {"agents": 5, "first": 4, "lines": 3, "form": "notes"}
_LIST: dict[str, Any] = {"agents": 3, "first": 3, "lines": 2, "form": "list"}
SETS = (
    ChainSet("tiny", RELAY, _NOTES | {"seed": 5, "n": 24}),
    ChainSet("tiny", KVCOMM, _NOTES | {"seed": 3, "n": 48}, slots=True),
    ChainSet("smollm2", RELAY, _LIST | {"seed": 12, "n": 48}),
    ChainSet("smollm2", KVCOMM, _LIST | {"seed": 13, "n": 48}, slots=True),
)


def _chunks(session: Session, task: AgentTask) -> dict[str, Any]:
    return {name: session.chunk(text, name=name) for name, text in task.inputs.items()}


def measured(session: Session, chains: ChainSet, n: int | None = None) -> dict[str, Any]:
    """Return what each strategy of ``chains`` got right and reused, chain by chain and in all."""
    tasks = chains.tasks(session, n)
    rows = []
    for one in chains.strategies:
        session.store.clear()  # what one has left of these very chains would help the next one
        rows.append(_row(evaluate_agents(session, tasks, one), one, chains.counted(len(tasks))))
    return {"model": chains.model, "sizes": chains.sizes | {"n": len(tasks)}, "slots": chains.slots, "rows": rows}


def _row(frame: pd.DataFrame, strategy: str | Strategy, first: int) -> dict[str, Any]:
    """Return one strategy's figures over the chains from ``first`` on."""
    counted = frame[frame["task"] >= first]
    told = counted[counted["agent"] == TELLER]
    return {
        "strategy": parse(strategy).spec,
        "right": [round(float(each), 4) for each in counted.groupby("task")["correct"].mean()],
        "told": [float(each) for each in told["correct"]],
        "reused": round(float(counted["reused"].sum() / counted["prompt"].sum()), 4),
        "last_reused": round(float(told["reused"].sum() / told["prompt"].sum()), 4),
        "share": round(float(counted["compute_share"].mean()), 4),
    }


def difference(row: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """Return how much more of its lines than another a strategy has right: mean, and 95 % bootstrap over the chains."""
    each = np.array(row["right"]) - np.array(other["right"])
    return float(each.mean()), *interval(each)


def page(tables: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    return "\n".join(_page(tables)) + "\n"


def _page(tables: dict[str, Any]) -> Iterator[str]:
    yield """# Agents, measured

Made by `python -m nbkv.studies.agents.chains` from chains of `nbkv.tasks.agents`, the same ones for each strategy, each
run from its first agent to its last: what an agent gets wrong is handed on. *right*: share of the lines that an agent
had to write, mean over agents and chains. *less full*: the same less what full has right in the same chains, in points,
with the 95 % interval (bootstrap over chains): **where it spans more than a point to either side, a point cannot be
told**. *told*: chains whose last agent answered rightly. *reused*: of all prompt tokens, and of the last agent's.
*share*: token-layers run over prompt x layers. How the methods work is in [agents.md](agents.md)."""
    for table in tables.values():
        yield from _section(table)


def _section(table: dict[str, Any]) -> Iterator[str]:
    sizes, full = table["sizes"], table["rows"][0]
    given = ", ".join(f"{name}={value!r}" for name, value in sizes.items())
    counted = f"; inputs are chunks; the last {len(full['right'])} chains count" if table["slots"] else ""
    yield f"\n## {table['model']}: `agents({given})`{counted}"
    yield "\n| strategy | right | less full, points | told | reused | last agent | share |"
    yield "|---|---|---|---|---|---|---|"
    yield from (_line(row, full) for row in table["rows"])
    rows = {row["strategy"]: row for row in table["rows"]}
    if "relay" in rows and (drawn := rows.get(UnguidedRelay().spec)):
        yield f"\n`relay` less as many random rows: {_points(rows['relay'], drawn)} points."


def _line(row: dict[str, Any], full: dict[str, Any]) -> str:
    less = "" if row is full else _points(row, full)
    told = f"{sum(row['told']):.0f} of {len(row['told'])}"
    right, reused, last = (f"{100 * each:.1f} %" for each in (np.mean(row["right"]), row["reused"], row["last_reused"]))
    return f"| {row['strategy']} | {right} | {less} | {told} | {reused} | {last} | {row['share']:.2f} |"


def _points(row: dict[str, Any], other: dict[str, Any]) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * each for each in difference(row, other)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sets asked for, keep those of the file that were not, and write file and page."""
    import nbkv  # noqa: PLC0415

    asked = _parser().parse_args(arguments)
    path = Path(asked.out) / "tables" / "agents.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for chains in SETS:
        if asked.sets and chains.name not in asked.sets:
            continue
        with nbkv.load(chains.model, strategy=FULL) as session:
            tables[chains.name] = measured(session, chains, asked.n)
        path.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"{chains.name}: done\n")
    (Path(asked.out) / "agents-measured.md").write_text(page(tables), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbkv.studies.agents.chains", description=__doc__)
    names = [chains.name for chains in SETS]
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {names}; the others stay as they were measured")
    parser.add_argument("-n", type=int, help="chains of each set, instead of its own number")
    parser.add_argument("--out", default="docs")
    return parser


if __name__ == "__main__":
    main()
