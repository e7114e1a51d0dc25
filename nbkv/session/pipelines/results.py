"""What became of a pipeline: a Result for each agent that ran, and what of each output was reused where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv import show
from nbkv.errors import NbkvError, UnknownName, closest
from nbkv.result import Provenance, Result

if TYPE_CHECKING:
    import pandas as pd

_REUSED = (Provenance.PREFIX, Provenance.CHUNK, Provenance.CORRECTED)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One output in one later prompt: how many of its ``tokens`` were reused there, and run again.

    ``source`` is the agent whose output it is, or the name of a chunk that was given; ``ttft_s`` is that of ``agent``,
    in whose prompt it stands. ``share`` is ``reused`` over ``tokens``.
    """

    round: int
    source: str
    agent: str
    tokens: int
    reused: int
    recomputed: int
    share: float
    ttft_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AgentRun:
    """One run of one agent: its ``result``, or the ``error`` that kept it from having one."""

    name: str
    round: int
    result: Result | None = None
    error: NbkvError | None = None

    @property
    def edges(self) -> list[Edge]:
        """Return what was handed to this agent in chunks."""
        if self.result is None:
            return []
        ttft_s = self.result.timing.ttft_s
        found = []
        for source, start, stop in self.result.chunks:
            some = self.result.provenance[start:stop]
            reused, again = int(np.isin(some, _REUSED).sum()), int((some == Provenance.RECOMPUTED).sum())
            counts = {"tokens": stop - start, "reused": reused, "recomputed": again, "ttft_s": ttft_s}
            share = reused / (stop - start)
            found.append(Edge(round=self.round, source=source, agent=self.name, share=share, **counts))  # type: ignore[arg-type]
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelineResults(Mapping[str, Result]):
    """The results of ``Pipeline.run`` by agent, of its last round; ``runs`` are all, in the order in which they ran.

    ``errors`` are those of agents that failed, by agent, and of those that needed them; asking for the result of one
    raises it. ``stopped`` says how far a stopped pipeline came.
    """

    runs: tuple[AgentRun, ...]
    agents: tuple[str, ...]
    rounds: int
    model: str
    strategy: str
    seconds: float
    stopped: str = ""

    def __getitem__(self, name: str) -> Result:
        """Return the newest result of agent ``name``; raises its error if it has none."""
        if name not in self.agents:
            message = f"unknown agent {name!r}{closest(name, list(self.agents))} (agents: {', '.join(self.agents)})"
            raise UnknownName(message)
        mine = [run for run in self.runs if run.name == name]
        if mine and mine[-1].error is not None:
            raise mine[-1].error
        if not mine or mine[-1].result is None:
            message = f"agent {name!r} has not run: the pipeline was {self.stopped or 'not run'}"
            raise UnknownName(message)
        return mine[-1].result

    def __iter__(self) -> Iterator[str]:
        """Yield the agents that have a result, in the order in which they ran."""
        return iter(dict.fromkeys(run.name for run in self.runs if run.result is not None))

    def __len__(self) -> int:
        """Return how many agents have a result."""
        return len(list(iter(self)))

    @property
    def text(self) -> str:
        """Return the last agent's answer; empty if none has one."""
        done = [run.result.text for run in self.runs if run.result is not None]
        return done[-1] if done else ""

    @property
    def errors(self) -> dict[str, NbkvError]:
        """Return the errors by agent."""
        return {run.name: run.error for run in self.runs if run.error is not None}

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Return what each agent was handed, in the order in which they ran."""
        return tuple(edge for run in self.runs for edge in run.edges)

    @property
    def hit_rate(self) -> float:
        """Return the share of all prompts' tokens that were reused."""
        counts = [run.result.tokens for run in self.runs if run.result is not None]
        whole = sum(each.prompt for each in counts)
        return sum(each.reused for each in counts) / whole if whole else 0.0

    def to_frame(self) -> pd.DataFrame:
        """Return one row an edge: which output, in whose prompt, how many tokens, reused, share, TTFT."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame([asdict(edge) for edge in self.edges], columns=list(Edge.__annotations__))

    def agents_frame(self) -> pd.DataFrame:
        """Return one row a run of an agent: prompt, reuse, times, answer, error."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame([_row(run) for run in self.runs])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the results as JSON-able data."""
        return {
            "kind": "pipeline",
            "model": self.model,
            "strategy": self.strategy,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "hit_rate": self.hit_rate,
            "stopped": self.stopped,
            "agents": [_row(run) for run in self.runs],
            "edges": [asdict(edge) for edge in self.edges],
        }

    def __repr__(self) -> str:
        """Return agents and edges as text."""
        return show.pipeline_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.pipeline_html(self.to_dict())


def _row(run: AgentRun) -> dict[str, Any]:
    row: dict[str, Any] = {"round": run.round, "agent": run.name}
    if run.result is None:
        row |= dict.fromkeys(("prompt", "reused", "hit_rate", "compute_share", "generated", "ttft_s", "total_s"))
        return row | {"finish_reason": "failed", "text": None, "error": str(run.error)}
    result = run.result
    return row | {
        "prompt": result.tokens.prompt,
        "reused": result.tokens.reused,
        "hit_rate": result.hit_rate,
        "compute_share": result.compute.share,
        "generated": len(result.token_ids),
        "ttft_s": result.timing.ttft_s,
        "total_s": result.timing.total_s,
        "finish_reason": result.finish_reason,
        "text": result.text,
        "error": None,
    }
