"""Eviction on chains of steps: GSM8K answered by a pretrained model, every strategy at the same bytes over the answer.

``python -m nbkv.studies.reasoning GSM8K.jsonl MODEL`` writes docs/tables/eviction-reasoning.json after each cell, goes
on where it was stopped, and then writes docs/eviction-reasoning.md.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbkv.session.session import Session
from nbkv.strategy import Strategy, parse
from nbkv.studies.divergence import Trace, trace
from nbkv.studies.eviction import EqualBytes, calibrate

KEEPS = (0.3, 0.5)
BASELINES = ("h2o", "tova", "snapkv", "streaming")
COUNT, ROOM, SAMPLE = 8, 160, 2  # questions, tokens of an answer, questions that calibrate (the last of the file)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def number(text: str) -> float | None:
    """Return the last number of ``text``, behind ``####`` if that is there; None if there is none."""
    found = _NUMBER.findall(text.rpartition("####")[2])
    return float(found[-1].replace(",", "")) if found else None


def specs(window: int, keeps: Sequence[float] = KEEPS) -> list[str | EqualBytes]:
    """Return the strategies to measure, in the table's order."""
    rows: list[str | EqualBytes] = []
    for keep in keeps:
        rows += [EqualBytes(keep, window), *(f"{name}(keep={keep})" for name in BASELINES)]
    return rows


class ChainQuestion:
    """One question: full's answer to it, and full's trace when something is to be held against it."""

    def __init__(self, session: Session, given: dict[str, str], room: int) -> None:
        """Have full answer it, as a turn of a chat."""
        self.session, self.room, self.right = session, room, number(given["answer"])
        self.prompt = [{"role": "user", "content": given["question"]}]
        self.answer = session.generate(self.prompt, strategy="full", max_new_tokens=room)
        self._full: Trace | None = None

    @property
    def full(self) -> Trace:
        """Return full's trace along its own answer."""
        if self._full is None:
            self._full = trace(self.session, self.prompt, self.answer.token_ids, "full")
        return self._full

    def strategy(self, spec: str | EqualBytes) -> Strategy:
        """Return the strategy that ``spec`` means for this question."""
        if isinstance(spec, EqualBytes):
            return spec.of(self.session, self.prompt, self.answer.token_ids)
        return parse(spec)

    def forced(self, spec: str | EqualBytes) -> dict[str, Any]:
        """Return what a strategy would say along full's greedy tokens: KL (nats), agreement, bytes over full's."""
        one = trace(self.session, self.prompt, self.answer.token_ids, self.strategy(spec))
        same = np.array(one.picks()) == np.array(self.full.picks())
        until = 1.0 if same.all() else int(same.argmin()) / len(same)
        held = one.mean_held / self.full.mean_held
        return {"kl": one.distance(self.full), "match": float(same.mean()), "until": until, "held": held}

    def free(self, spec: str | EqualBytes) -> dict[str, Any]:
        """Return whether a strategy's own answer ends in the right number, and in full's."""
        given = self.session.generate(self.prompt, strategy=self.strategy(spec), max_new_tokens=self.room)
        said = number(given.text)
        return {"right": int(said == self.right), "same": int(said == number(self.answer.text))}


def measure(session: Session, given: Sequence[dict[str, str]], room: int, data: dict[str, Any], out: Path) -> None:
    """Fill ``data["cells"]``, by question and strategy, and write it to ``out`` after each; those there stay.

    All answers along full's tokens come first, then the strategies' own.
    """
    wanted, asked = specs(data["calibrated"]["window"]), [ChainQuestion(session, one, room) for one in given]
    cells: dict[str, dict[str, Any]] = data["cells"]
    data["full"] = [
        {
            "prompt": len(one.answer.prompt_ids),
            "answer": len(one.answer.token_ids),
            "right": int(number(one.answer.text) == one.right),
        }
        for one in asked
    ]
    for figure in ("kl", "right"):
        for at, question in enumerate(asked):
            for spec in wanted:
                cell = cells.setdefault(f"{at}: {spec}", {})
                if figure not in cell:
                    cell |= question.forced(spec) if figure == "kl" else question.free(spec)
                    out.write_text(json.dumps(data) + "\n", encoding="utf-8")


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    full = data["full"]
    right, prompt = sum(one["right"] for one in full), statistics.median(one["prompt"] for one in full)
    tokens = f"{min(one['answer'] for one in full)} to {max(one['answer'] for one in full)}"
    lines = [
        "# Eviction on chains of steps, at equal bytes",
        "",
        f"Made by `{data['command']}`: {data['regime']}.",
        f"Full's answers have {tokens} tokens, prompts about {prompt:.0f}; {right} of {len(full)} of them end in the",
        "right number, as *right* counts; *same* counts a strategy's own answers that end in full's number, of the",
        "second *n*. KL (nats), *match* (agreement) and *until* (share of the answer before the first other token) are",
        "means along full's greedy tokens; *held* is K/V bytes over full's, a mean over the answer. LazyEviction holds",
        "the whole prompt until its first window is over, so its budget is set such that it holds no more than the",
        f"others in all. Its window is {data['calibrated']['window']} tokens, the 80th percentile of MRI on {SAMPLE}",
        "other questions, halved where an answer is too short for that.",
        "",
        "| strategy | n | KL | match | until | held | n | same | right |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for spec in map(str, specs(data["calibrated"]["window"])):
        cells = [cell for name, cell in data["cells"].items() if name.partition(": ")[2] == spec]
        followed, own = [cell for cell in cells if "kl" in cell], [cell for cell in cells if "right" in cell]
        if followed:
            kl, match, until, held = (
                statistics.fmean(one[key] for one in followed) for key in ("kl", "match", "until", "held")
            )
            same, right = (sum(one[key] for one in own) if own else "" for key in ("same", "right"))
            lines.append(
                f"| {spec} | {len(followed)} | {kl:.2g} | {match:.3f} | {until:.2f} | {held:.2f} "
                f"| {len(own)} | {same} | {right} |"
            )
    return "\n".join([*lines, "", *_verdict(data)]) + "\n"


def _verdict(data: dict[str, Any]) -> list[str]:
    """Return in how many questions LazyEviction is nearer to full than each other method at the same share."""
    lines = []
    for keep in KEEPS:
        mine, wins = str(EqualBytes(keep, 0)), []
        for name in BASELINES:
            pairs = [
                (data["cells"].get(f"{at}: {mine}", {}), data["cells"].get(f"{at}: {name}(keep={keep})", {}))
                for at in range(len(data["full"]))
            ]
            both = [(one["kl"], other["kl"]) for one, other in pairs if "kl" in one and "kl" in other]
            wins.append(f"{name} on {sum(one < other for one, other in both)} of {len(both)}")
        lines.append(f"At {keep:.0%} LazyEviction is nearer to full (KL) than {', '.join(wins)} questions.")
    return lines


def main(path: str, model: str, n: int = COUNT, room: int = ROOM, folder: str = "docs") -> None:
    """Measure the first ``n`` questions of the file and write the table; what its JSON holds already stays."""
    import nbkv  # noqa: PLC0415

    given = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    out = Path(folder) / "tables" / "eviction-reasoning.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with nbkv.load(model, strategy="full") as session:
        command = f"python -m nbkv.studies.reasoning GSM8K.jsonl MODEL {n} {room}"
        regime = f"`{session.model_name}`, the first {n} questions of GSM8K's test set, at most {room} tokens, greedy"
        data = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        if (data.get("command"), data.get("regime")) != (command, regime):
            sample = [[{"role": "user", "content": one["question"]}] for one in given[-SAMPLE:]]
            found = calibrate(session, sample, max_new_tokens=room)
            data = {"command": command, "regime": regime, "calibrated": found, "cells": {}}
        measure(session, given[:n], room, data, out)
    (Path(folder) / "eviction-reasoning.md").write_text(markdown(data), encoding="utf-8")


if __name__ == "__main__":
    given_path, given_model, *sizes = sys.argv[1:]
    main(given_path, given_model, *(int(size) for size in sizes[:2]))  # type: ignore[arg-type]  # the two counts
