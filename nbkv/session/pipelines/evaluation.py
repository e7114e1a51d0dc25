"""Chains of agents with known answers, run end to end under several strategies: what each gets right and reuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption
from nbkv.session.pipelines.pipeline import Pipeline
from nbkv.session.session import Session
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Strategy, parse, split

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.tasks.chains.agents import AgentTask


def evaluate_agents(
    session: Session,
    tasks: Iterable[AgentTask],
    strategies: str | Strategy | Sequence[str | Strategy] = "full",
    **options: Any,  # noqa: ANN401  (as ``session.generate`` has them)
) -> pd.DataFrame:
    """Run each of ``tasks`` under each strategy and return one row for each of their agents.

    Every strategy runs its own chains, one after another: an agent reads what the agents before it wrote under the same
    strategy, and what one strategy has left is none of the next one's: the store is emptied before each of several.
    Columns: ``task``, ``kind``, ``strategy``, ``agent``, ``correct`` (share of the agent's lines; the teller's 0 or 1),
    ``prompt`` (tokens), ``reused``, ``hit_rate``, ``compute_share``, ``ttft_s``, ``kl`` (nats, NaN unless
    ``fidelity=True`` is among the ``options`` of ``generate``), ``text``. Raises the error of an agent that failed, and
    ``BadOption`` for several strategies on a store that is more than memory.
    """
    from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

    chosen, rows = [parse(one) for one in split(strategies)], list[dict[str, Any]]()
    given, several = list(tasks), len(chosen) > 1
    if several and type(session.store) is not MemoryStore:
        message = f"the store is emptied between strategies: give a session whose store is memory, not {session.store}"
        raise BadOption(message)
    for strategy in chosen:
        if several:
            session.store.clear()
        for number, task in enumerate(given):
            asked = {"stop": task.stop, "max_new_tokens": task.max_new_tokens} | options
            done = Pipeline(session, task.prompts, strategy=strategy, **asked).run(**task.inputs)
            for error in done.errors.values():
                raise error
            about = {"task": number, "kind": task.kind, "strategy": strategy.spec}
            for name, correct in task.scores(done).items():
                result = done[name]
                rows.append(
                    about
                    | {
                        "agent": name,
                        "correct": correct,
                        "prompt": result.tokens.prompt,
                        "reused": result.tokens.reused,
                        "hit_rate": result.hit_rate,
                        "compute_share": result.compute.share,
                        "ttft_s": result.timing.ttft_s,
                        "kl": float("nan") if result.fidelity is None else result.fidelity.kl,
                        "text": result.text,
                    }
                )
    rows.sort(key=lambda row: int(row["task"]))
    return Frame(rows)
