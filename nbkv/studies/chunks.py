"""The instrument table: every chunk strategy on the bundled reader and the tasks that it was made to read.

It tells whether a method does what it says, not which one to take: rankings on real models are others
(docs/real-text.md). ``make tables`` runs this module and writes docs/tables/chunks.json and docs/chunks.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbkv.registry import strategies
from nbkv.session.session import Session
from nbkv.studies.answers import Cell, Row, measure, own_rule
from nbkv.studies.baselines import LexicalRows, RandomRows
from nbkv.studies.oracle import ORACLES, oracle
from nbkv.studies.statistics import interval
from nbkv.tasks import ledger, report, trace

if TYPE_CHECKING:
    from nbkv.tasks.items import Item

SINKS = ("bos", "primer")
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3)
METHODS = ("cacheblend", "cachecraft", "epic", "influence", "kvshare", "passage", "prophet")
NAIVE = "cacheblend(budget=0)"
SEEDS = (101, 102, 103)
COUNT = 4  # questions of each seed and task
TASKS = ("distance 1", "distance 2", "distance 3", "two targets", "report", "trace")
_LONGEST = 64  # a report's tokens


def questions(task: str, seeds: Sequence[int] = SEEDS, n: int = COUNT) -> list[Item]:
    """Return ``n`` questions of ``task`` for each seed."""
    made = {
        "two targets": lambda seed: ledger(seed=seed, n=n, chunks=8, distance=1, targets=2),
        "report": lambda seed: report(seed=seed, n=n, chunks=8),
        "trace": lambda seed: trace(seed=seed, n=n, chunks=8),
    }
    far = {f"distance {at}": at for at in (1, 2, 3)}
    if task in far:
        return [item for seed in seeds for item in ledger(seed=seed, n=n, chunks=8, distance=far[task])]
    return [item for seed in seeds for item in made[task](seed)]


def rows(task: str) -> list[Row]:
    """Return what is measured: naive reuse, methods by budget, the dumbest rivals, oracles where rows are known."""
    known = [name for name in METHODS if name in strategies.names()]
    every = [f"{name}(budget={budget})" for name in known for budget in BUDGETS]
    own = [name for name in known if own_rule(name)]
    oracles = [oracle(kind) for kind in ORACLES] if task.startswith("distance") else []
    return [NAIVE, *every, *own, RandomRows(budget=0.15), LexicalRows(budget=0.15), *oracles]


def table(session: Session, tasks: Sequence[str] = TASKS, n: int = COUNT, sinks: Sequence[str] = SINKS) -> pd.DataFrame:
    """Return one row a question and strategy: ``task``, ``kind``, ``sink``, ``strategy`` and a ``Cell``'s figures.

    ``full_truth`` is whether full is right.
    """
    found = []
    for task in tasks:
        for item in questions(task, n=n):
            asked = measure(session, item, sinks, lambda _, task=task: rows(task), _LONGEST)  # type: ignore[misc]
            for name, figures in asked["cells"].items():
                sink, _, strategy = name.partition(" ")
                about = {"task": task, "kind": item.kind, "sink": sink, "strategy": strategy}
                found.append(about | dict(zip(Cell.names(), figures, strict=True)) | {"full_truth": asked["truth"]})
    return pd.DataFrame(found)


def meter(frame: pd.DataFrame) -> float:
    """Return Spearman's correlation between KL and wrong answers over the rows (sink and strategy) of ``frame``.

    Of the tasks that full can do. 1 means that KL puts strategies in the order in which they err.
    """
    able = frame[frame["full_truth"] == 1]
    means = able.groupby(["sink", "strategy"])[["kl", "truth"]].mean()
    return float(means["kl"].rank().corr((1 - means["truth"]).rank()))


def summary(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a strategy and sink: mean figures, accuracy by kind and task, KL's 95 % interval."""
    found = []
    for (sink, strategy), cell in frame.groupby(["sink", "strategy"]):
        low, high = interval(cell["kl"].to_numpy())
        mean = cell[["kl", "share", "top1"]].mean()
        lines = cell[cell["task"].str.startswith("distance")]
        by = {kind: some["truth"].mean() for kind, some in lines.groupby("kind")}
        by |= {task: some["truth"].mean() for task, some in cell.groupby("task")}
        traced = cell[cell["task"] == "trace"]["kl"]
        found.append(
            {
                "sink": sink,
                "strategy": strategy,
                "share": _short(mean["share"]),
                "kl": _short(mean["kl"]),
                "low": _short(low),
                "high": _short(high),
                "top1": _short(mean["top1"]),
                "trace_kl": _short(traced.mean()) if len(traced) else None,
                "right": {name: _short(value) for name, value in by.items()},
            }
        )
    return sorted(found, key=lambda row: (row["sink"], row["strategy"].partition("(")[0], row["share"]))


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def main(model: str = "tiny", folder: str = "docs") -> None:
    """Measure the table and write it."""
    import nbkv  # noqa: PLC0415

    with nbkv.load(model, strategy="full") as session:
        frame = table(session)
    full = {str(task): float(some["full_truth"].mean()) for task, some in frame.groupby("task")}
    regime = f"`{model}`, 8 chunks, seeds {', '.join(map(str, SEEDS))}, {COUNT * len(SEEDS)} questions of each task"
    data = {"regime": regime, "full": full, "spearman": meter(frame), "rows": summary(frame)}
    out = Path(folder)
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "tables" / "chunks.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (out / "chunks.md").write_text(page(data), encoding="utf-8")


def page(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    return "\n".join(_page(data)) + "\n"


def _page(data: dict[str, Any]) -> Iterator[str]:
    full = ", ".join(f"{task} {right:.2f}" for task, right in data["full"].items())
    kinds = ("local", "carried", "two targets", "report")
    yield f"""# Chunk strategies on the bundled reader

Made by `make tables`: {data["regime"]}. An instrument, not evidence of
quality: it shows that methods do what they say, on a reader and tasks made for each other. **Which method to take is
decided on real models** ([real-text.md](real-text.md)), where the order is another one.

*Carried* questions need what an earlier chunk said, *local* ones only their own; *two targets* asks for two lines,
*report* for everything about one subject; *trace* follows a value through several chunks, which this reader cannot do,
so that only its distance to full is given. Numbers under these are the share of right answers.
Full's own: {full}.
*KL*: nats over full's greedy answer (up to {_LONGEST} tokens, forced), mean over all questions with its 95 % bootstrap
interval. *Share*: token-layers run over prompt x layers, selection passes included. *primer*: chunks were encoded
behind BOS and neutral text; published methods encode them behind BOS alone. `cachecraft` and `kvshare` met the chunks
in two other prompts first. `{NAIVE}` is naive reuse; `random` and `lexical` look at no model; oracles
know the rows (distances only).

Spearman's correlation of KL with wrong answers over these rows, on tasks that full can do:
{data["spearman"]:.2f}.

| strategy | sink | share | KL | 95 % | top-1 | {" | ".join(kinds)} | trace, KL |
|{"---|" * (7 + len(kinds))}"""
    for row in data["rows"]:
        right = " | ".join(f"{row['right'][kind]:.2f}" if kind in row["right"] else "" for kind in kinds)
        trace_kl = "" if row["trace_kl"] is None else f"{row['trace_kl']:.3f}"
        yield (
            f"| {row['strategy']} | {row['sink']} | {row['share']:.3f} | {row['kl']:.4f} "
            f"| {row['low']:.4f} to {row['high']:.4f} | {row['top1']:.3f} | {right} | {trace_kl} |"
        )


if __name__ == "__main__":
    main()
