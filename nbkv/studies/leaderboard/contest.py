"""Who takes part in the leaderboard, the dumbest rivals among them, and how each does on questions made from seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbkv.errors import NbkvError
from nbkv.registry import strategies
from nbkv.strategy import parse
from nbkv.studies.answers import Cell, Row, measure, own_rule
from nbkv.studies.baselines import LexicalRows, RandomRows
from nbkv.studies.chunks import NAIVE, questions

if TYPE_CHECKING:
    from nbkv.models.adapter import ModelAdapter
    from nbkv.session.session import Session

EXACT = ("full", "prefix")
FIGURES = ("share", "kl", "top1", "right")
COLUMNS = ("model", "task", "sink", "strategy", "over", "unit", *FIGURES)
_LONGEST = 64  # a report's tokens


@dataclass(frozen=True)
class Contenders:
    """Who takes part: ``rows`` to be measured, and why each of the other strategies does not, by name."""

    rows: tuple[Row, ...]
    refused: dict[str, str]


def contenders(adapter: ModelAdapter, budgets: Sequence[float], names: Sequence[str] = ()) -> Contenders:
    """Return full and the stored prefix, naive reuse, each chunk strategy and the dumbest rivals at each budget.

    ``names``: only these strategies (none: all of the registry). One whose method says itself how many rows it runs
    takes part with that, too. Raises ``UnknownName`` for a name that is no strategy.
    """
    for name in names:
        strategies.get(name)
    rows: list[Row] = [*EXACT, NAIVE]
    refused = {}
    for name in names or strategies.names():
        if name in EXACT:
            continue
        reason = _why_not(name, adapter)
        if reason:
            refused[name] = reason
            continue
        of_it = any(option.name == "budget" for option in fields(parse(name)))
        rows += [f"{name}(budget={budget})" for budget in budgets] if of_it else [name]
        rows += [name] if of_it and own_rule(name) else []
    for budget in budgets:
        rows += [RandomRows(budget=budget), LexicalRows(budget=budget)]
    return Contenders(tuple(rows), refused)


def _why_not(name: str, adapter: ModelAdapter) -> str:
    made = parse(name)
    if "relocation" not in made.needs:
        return "reuses no chunks, so that one prompt costs it what it costs full or prefix"
    try:
        made.check(adapter)
    except NbkvError as reason:
        return str(reason)
    return ""


def measured(
    session: Session,
    rows: Sequence[Row],
    *,
    tasks: Sequence[str],
    seeds: Sequence[int],
    n: int,
    sinks: Sequence[str],
    steps: Callable[[Sequence[Any]], Any] = iter,
) -> pd.DataFrame:
    """Return one row a seed, task, sink and strategy (``COLUMNS``): means over the ``n`` questions of that seed.

    ``share``: token-layers run over prompt x layers, selection included; ``kl`` in nats over full's greedy answer of
    up to 64 tokens; ``right`` from 0 to 1. Naive reuse, methods and rivals see the very same chunks. ``steps`` wraps
    the list of seeds and tasks, for a progress bar.
    """
    found = []
    for task, seed in steps([(task, seed) for task in tasks for seed in seeds]):
        for item in questions(task, seeds=(seed,), n=n):
            asked = measure(session, item, sinks, lambda _: rows, _LONGEST)
            for name, figures in asked["cells"].items():
                sink, _, strategy = name.partition(" ")
                cell = Cell(*figures)
                about = (session.adapter.name, task, sink, strategy, "seeds", str(seed))
                found.append((*about, cell.share, cell.kl, cell.top1, cell.truth))
    frame = pd.DataFrame(found, columns=[*COLUMNS])
    return frame.groupby([*COLUMNS[:6]], sort=False)[[*FIGURES]].mean().reset_index()
