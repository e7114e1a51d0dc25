"""KVCOMM against its dumbest rivals: no offsets, random offsets, and the paper's way to approximate them.

``python -m nbkv.studies.agents.rivals GSM8K.jsonl MODEL [WARM [COUNT]]`` writes docs/tables/kvcomm.json and what stands
between the two marks in docs/agents.md, and prints the table. Prompts are those of the third of five agents: a problem
of GSM8K, its solution as a plan and as a calculation, each in a slot of a fixed template.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nbkv.kv import KV
from nbkv.show.marked import marked
from nbkv.strategies.kvcomm import KVComm
from nbkv.studies.divergence import trace

if TYPE_CHECKING:
    from nbkv.families.agents.offsets import Neighbours
    from nbkv.result import Chunk
    from nbkv.session.session import Session
    from nbkv.strategy import Strategy

WARM, COUNT, TOKENS = 8, 10, 16  # prompts that leave anchors, prompts that are measured, tokens of an answer
_BEGIN = (
    "You are the third of five agents who solve problems together. Each agent reads the problem and what the agents "
    "before it wrote, checks their steps, and then writes its own steps. Be short and careful with numbers.\n\n"
    "The problem:\n"
)
_END = (
    "\n\nNow read both answers again, compare each step of the calculation with the problem, and correct what is "
    "wrong. Then write the final answer in one sentence.\nThird agent:"
)
_PLAN, _SUMS = "\n\nThe first agent, who makes a plan, wrote:\n", "\n\nThe second agent, who calculates, wrote:\n"
BEGIN, END = "<!-- offsets: made by `python -m nbkv.studies.agents.rivals` -->", "<!-- end of the offsets -->"
TEMPLATE = (_BEGIN, _PLAN, _SUMS, _END)


@dataclass(kw_only=True, repr=False)
class WithoutOffsets(KVComm):
    """KVCOMM's reuse with no offsets at all: each chunk as it is alone; not registered."""

    title = "no offsets"

    def offsets(self, near: Neighbours, factors: torch.Tensor) -> KV:
        """Return zeros."""
        return super().offsets(near, torch.zeros_like(factors))


@dataclass(kw_only=True, repr=False)
class RandomOffsets(KVComm):
    """KVCOMM's reuse with offsets that are as long as its own in each layer and point anywhere; not registered."""

    title = "random offsets"

    def offsets(self, near: Neighbours, factors: torch.Tensor) -> KV:
        """Return noise, the same one each time."""
        own, drawn = super().offsets(near, factors), torch.Generator().manual_seed(0)

        def noise(like: torch.Tensor) -> torch.Tensor:
            size = float(like.norm()) / sqrt(max(1, like.numel()))
            return (torch.randn(like.shape, generator=drawn) * size).to(like)

        return KV(tuple(map(noise, own.keys)), tuple(map(noise, own.values)))


@dataclass(kw_only=True, repr=False)
class WholeOffsets(KVComm):
    """KVCOMM as the paper has it, but for relative distances: offsets by position, added whole; not registered."""

    title = "by position, added whole (the paper)"
    align: str = "position"

    def offsets(self, near: Neighbours, factors: torch.Tensor) -> KV:
        """Return the weighted mean."""
        return super().offsets(near, torch.ones_like(factors))


def rivals() -> dict[str, str | Strategy]:
    """Return what is measured, by name: whatever has two anchors long enough is reused."""
    open_gate: dict[str, Any] = {"gamma": 1.0, "max_kl": None, "min_explained": None}
    return {
        "chunks alone, text between run (`epic(first_k=0)`)": "epic(first_k=0)",
        WithoutOffsets.title: WithoutOffsets(**open_gate),
        RandomOffsets.title: RandomOffsets(**open_gate),
        WholeOffsets.title: WholeOffsets(**open_gate),
        "by position": KVComm(align="position", **open_gate),
        "by token (`kvcomm`)": KVComm(**open_gate),
    }


def prompt(session: Session, given: dict[str, str]) -> list[str | Chunk]:
    """Return the third agent's prompt about one record of GSM8K."""
    calculated = given["answer"].split("####")[0].strip()
    texts = [given["question"], re.sub(r"<<.*?>>", "", calculated), calculated]
    chunks = [session.chunk(text, name=name) for name, text in zip(("problem", "plan", "sums"), texts, strict=True)]
    return [part for pair in zip(TEMPLATE, chunks, strict=False) for part in pair] + [TEMPLATE[-1]]


def measure(session: Session, given: Sequence[dict[str, str]], warm: int, tokens: int = TOKENS) -> list[dict[str, Any]]:
    """Return a row for each rival: KL (nats), agreement and reuse over full's answers to the prompts after ``warm``.

    The first ``warm`` prompts are computed in full and leave anchors, the others leave nothing.
    """
    for one in given[:warm]:
        session.generate(prompt(session, one), strategy="kvcomm(gamma=0)", max_new_tokens=1)
    cells: dict[str, list[dict[str, float]]] = {name: [] for name in rivals()}
    for one in given[warm:]:
        asked = prompt(session, one)
        answer = session.generate(asked, strategy="full", max_new_tokens=tokens).token_ids
        full = trace(session, asked, answer, "full")
        for name, strategy in rivals().items():
            found = trace(session, asked, answer, strategy)
            same = [mine == theirs for mine, theirs in zip(found.picks(), full.picks(), strict=True)]
            cells[name].append({"kl": found.distance(full), "match": sum(same) / len(same)})
    return [
        {
            "rival": name,
            "n": len(each),
            "kl": statistics.fmean(one["kl"] for one in each),
            "median": statistics.median(one["kl"] for one in each),
            "match": statistics.fmean(one["match"] for one in each),
            "kls": [one["kl"] for one in each],
        }
        for name, each in cells.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown; *nearer* counts the prompts on which the last row is nearer to full."""
    mine = rows[-1]["kls"]
    lines = ["| offsets | KL mean | median | match | reused | kvcomm nearer |", "|---|---|---|---|---|---|"]
    for row in rows:
        nearer = sum(own < other for own, other in zip(mine, row["kls"], strict=True))
        told = "" if row is rows[-1] else f"{nearer} of {row['n']}"
        figures = f"{row['kl']:.3f} | {row['median']:.3f} | {row['match']:.2f} | {_reused(row)} of {row['n']}"
        lines.append(f"| {row['rival']} | {figures} | {told} |")
    return "\n".join(lines)


def section(data: dict[str, Any]) -> str:
    """Return what docs/agents.md says of the JSON ``data``."""
    *others, mine = data["rows"]
    none = next(row for row in others if row["rival"] == WithoutOffsets.title)
    changes = [own - without for own, without in zip(mine["kls"], none["kls"], strict=True)]
    worse = sum(change > 0 for change in changes)
    return (
        f"Made by `{data['command']}`: `{data['model']}`, {data['warm']} prompts that leave anchors, {data['prompts']} "
        f"that are measured along full's first {data['tokens']} tokens, with a gate that is open.\n\n"
        f"{table(data['rows'])}\n\n"
        f"*Reused*: prompts of which something was; the others had no two anchors that were long enough, and are full. "
        f"Against no offsets at all, offsets by token change the distance by {statistics.fmean(changes):+.3f} nats on "
        f"average ({min(changes):+.3f} to {max(changes):+.3f}, median {statistics.median(changes):+.3f}), and lead "
        f"further from full on {worse} of {len(changes)} prompts: they are what the gate has to judge, not a gain to "
        "count on."
    )


def _reused(row: dict[str, Any]) -> int:
    """Return on how many prompts something was reused: where nothing was, the answer is full's to the bit."""
    return sum(one > 0 for one in row["kls"])


def main(path: str, model: str, *, warm: int = WARM, n: int = COUNT, folder: str = "docs") -> str:
    """Measure the first records of the file, write the JSON and the page's section; return the table."""
    import nbkv  # noqa: PLC0415

    given = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()[: warm + n]]
    with nbkv.load(model, strategy="full") as session:
        rows = measure(session, given, warm)
        about = {"command": f"python -m nbkv.studies.agents.rivals GSM8K.jsonl MODEL {warm} {n}"}
        regime = {"model": session.model_name, "warm": warm, "prompts": n, "tokens": TOKENS}
    data = about | regime | {"rows": rows}
    (Path(folder) / "tables" / "kvcomm.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    if (page := Path(folder) / "agents.md").is_file():
        page.write_text(marked(page.read_text(encoding="utf-8"), BEGIN, section(data), END), encoding="utf-8")
    return table(rows)


if __name__ == "__main__":
    given_path, given_model, *sizes = sys.argv[1:]
    counts = dict(zip(("warm", "n"), map(int, sizes), strict=False))
    sys.stdout.write(main(given_path, given_model, **counts) + "\n")  # type: ignore[arg-type]  # the two counts
