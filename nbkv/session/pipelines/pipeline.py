"""``nbkv.Pipeline``: named agents on one session, each output a chunk of the prompts that name it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbkv.errors import BadOption, NbkvError, UnknownName, UnsupportedModel
from nbkv.prompts.fields import Part, values
from nbkv.result import Chunk, Result
from nbkv.scalars import is_whole
from nbkv.session.pipelines.graph import AgentGraph, AgentPrompt, Template
from nbkv.session.pipelines.results import AgentRun, PipelineResults
from nbkv.session.session import Session
from nbkv.stopping import interruption
from nbkv.strategy import Strategy, parse


class Pipeline:
    """Agents on one session whose prompts name each other's outputs: ``{{planner}}`` is what ``planner`` answered.

    ``prompts`` has a prompt for each agent by name: text, or messages whose contents are text; names that are no
    agents' are inputs of ``run``. An output stands in later prompts as a chunk of the very tokens that were decoded,
    without the one that ended it, so that a strategy can reuse their K/V. Agents run behind those they name; agents
    that wait for each other are refused unless ``rounds`` says how often each runs. ``strategy`` (None: the session's)
    serves them all, ``options`` are those of ``session.generate``. Raises ``BadOption``.
    """

    def __init__(
        self,
        session: Session,
        prompts: Mapping[str, Template],
        *,
        strategy: str | Strategy | None = None,
        rounds: int | None = None,
        **options: Any,  # noqa: ANN401  (as ``session.generate`` has them)
    ) -> None:
        """Read the prompts and settle the order."""
        if not isinstance(prompts, Mapping) or not prompts:
            message = "a pipeline takes agents by name: {'planner': 'Plan: {{question}}', 'solver': 'Do: {{planner}}'}"
            raise BadOption(message)
        if rounds is not None and not is_whole(rounds, 1):
            message = f"rounds={rounds!r:.60} is not accepted: how often each agent runs, a whole number >= 1"
            raise BadOption(message)
        self.session = session
        self.strategy = None if strategy is None else parse(strategy)
        self.graph = AgentGraph(tuple(AgentPrompt(name, prompt) for name, prompt in prompts.items()), rounds)
        self.order = [agent.name for agent in self.graph.order()]
        self._options = options

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names that ``run`` must be given."""
        return self.graph.inputs

    def run(self, **inputs: object) -> PipelineResults:
        """Run every agent and return their results; ``inputs`` are text, numbers, chunks, Results, or lists of these.

        An agent that fails keeps no other from its result, but for those that need its output: see ``errors``. Ctrl-C
        raises ``KeyboardInterrupt`` whose ``result`` has what there was; after ``session.stop()`` that is returned.
        Raises ``BadPrompt`` for inputs that are missing, unknown or of another type.
        """
        self.graph.check_inputs(inputs)
        given = {name: tuple(values(name, value)) for name, value in inputs.items()}
        return _Turns(self, given).take()

    def __repr__(self) -> str:
        """Return the agents in order, with what each names."""
        prompts = {agent.name: agent for agent in self.graph.agents}
        told = [f"{name}({', '.join(prompts[name].names)})" for name in self.order]
        rounds = "" if self.graph.rounds is None else f", {self.graph.rounds} rounds"
        return f"<Pipeline: {' -> '.join(told)}{rounds}>"


def _written(session: Session, ids: Sequence[int]) -> str:
    return str(session.tokenizer.decode(ids, skip_special_tokens=True))


@dataclass(eq=False)
class _Turns:
    """One run of a pipeline: the outputs so far, and the runs that gave them."""

    pipeline: Pipeline
    inputs: Mapping[str, Sequence[Part]]
    outputs: dict[str, Chunk] = field(default_factory=dict)
    failed: dict[str, NbkvError] = field(default_factory=dict)
    runs: list[AgentRun] = field(default_factory=list)
    stopped: str = ""

    def __post_init__(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def take(self) -> PipelineResults:
        """Let every agent have its turns."""
        agents = {agent.name: agent for agent in self.pipeline.graph.agents}
        for number in range(1, (self.pipeline.graph.rounds or 1) + 1):
            for name in self.pipeline.order:
                self._turn(agents[name], number)
                if self.stopped:
                    return self.results()
        return self.results()

    def results(self) -> PipelineResults:
        """Return what there is so far."""
        session, graph = self.pipeline.session, self.pipeline.graph
        strategy = self.pipeline.strategy or session.strategy
        return PipelineResults(
            runs=tuple(self.runs),
            agents=tuple(agent.name for agent in graph.agents),
            rounds=graph.rounds or 1,
            model=session.model_name,
            strategy=strategy.spec,
            seconds=time.perf_counter() - self._began,
            stopped=self.stopped,
        )

    def _turn(self, agent: AgentPrompt, number: int) -> None:
        lacking = [name for name in self.pipeline.graph.sources(agent) if name in self.failed]
        if lacking:
            self._fail(agent, number, NbkvError(f"it needs the output of {lacking[0]!r}, which has none"))
            return
        try:
            prompt = agent.filled(self._parts)
            result = self.pipeline.session.generate(prompt, strategy=self.pipeline.strategy, **self.pipeline._options)  # noqa: SLF001
        except KeyboardInterrupt as stop:
            self._interrupted(agent, number, getattr(stop, "result", None))
            raise interruption(self.results(), self.stopped) from None
        except (BadOption, UnknownName, UnsupportedModel):  # what is asked of all agents alike: none would answer
            raise
        except Exception as error:  # noqa: BLE001  (a callback's, too: the other agents' results are kept)
            self._fail(agent, number, error)
            return
        if result.finish_reason == "interrupted":
            self._interrupted(agent, number, result)
            return
        self.runs.append(AgentRun(name=agent.name, round=number, result=result))
        self.failed.pop(agent.name, None)
        self.outputs[agent.name] = self._output(agent.name, result)

    def _parts(self, name: str) -> Iterable[Part]:
        """Return what stands for ``name``: an output has no part where nothing was said, or nobody has spoken yet."""
        if name in self.inputs:
            return self.inputs[name]
        said = self.outputs.get(name)
        return [said] if said else []

    def _output(self, name: str, result: Result) -> Chunk:
        """Return an answer without what only ended it: the model's own token, a stop string, white space before it."""
        session, chunk = self.pipeline.session, result.chunk(name)
        ids = chunk.token_ids
        if ids and ids[-1] in session.end_tokens:
            ids = ids[:-1]
        while result.finish_reason == "stop" and ids and len(_written(session, ids[:-1])) >= len(result.text.rstrip()):
            ids = ids[:-1]
        return replace(chunk, token_ids=ids)

    def _fail(self, agent: AgentPrompt, number: int, error: Exception) -> None:
        kind = type(error) if isinstance(error, NbkvError) else NbkvError
        what = str(error) if isinstance(error, NbkvError) else f"{type(error).__name__}: {error}"
        told = kind(f"agent {agent.name!r}{self._in_round(number)}: {what}")
        told.__cause__ = error
        self.failed[agent.name] = told
        self.runs.append(AgentRun(name=agent.name, round=number, error=told))

    def _interrupted(self, agent: AgentPrompt, number: int, result: Result | None) -> None:
        if result is not None:
            self.runs.append(AgentRun(name=agent.name, round=number, result=result))
        done = sum(run.result is not None and run.result.finish_reason != "interrupted" for run in self.runs)
        total = len(self.pipeline.order) * (self.pipeline.graph.rounds or 1)
        self.stopped = f"stopped at agent {agent.name!r}{self._in_round(number)}: {done} of {total} agents had answered"

    def _in_round(self, number: int) -> str:
        return "" if self.pipeline.graph.rounds is None else f" (round {number})"
