"""Agents by name, each with its prompt, and the order in which their prompts can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from nbkv.errors import BadOption, BadPrompt, closest
from nbkv.prompts.fields import Field, Part, fields_of, joined
from nbkv.scalars import kind_of

_ACCEPTED = 'text with {{name}} in it, or a list of messages such as {"role": "user", "content": text}'

Template = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AgentPrompt:
    """The prompt of the agent ``name``: text in which ``{{other}}`` stands for another's output, or messages of it."""

    name: str
    template: Template

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a name that no prompt can name, or what is no prompt."""
        if not isinstance(self.name, str) or not self.name.isidentifier():
            message = f"the agent's name {self.name!r:.60} is not accepted: a name such as planner, for {{{{planner}}}}"
            raise BadOption(message)
        if not self.template or not all(isinstance(text, str) for text in self._texts()):
            what = kind_of(self.template) if self.template else "empty"
            message = f"the prompt of agent {self.name!r} is {what} (accepted: {_ACCEPTED})"
            raise BadOption(message)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that stand in it, each once, in order."""
        pieces = (piece for text in self._texts() for piece in fields_of(text))
        return tuple(dict.fromkeys(str(piece) for piece in pieces if isinstance(piece, Field)))

    def filled(self, value: Callable[[str], Iterable[Part]]) -> Any:  # noqa: ANN401  (one of the forms a session takes)
        """Return the prompt with what ``value`` gives for each name."""
        if isinstance(self.template, str):
            return _filled(self.template, value)
        return [dict(message) | {"content": _filled(message["content"], value)} for message in self.template]

    def _texts(self) -> list[Any]:
        given: object = self.template
        if isinstance(given, str) or not isinstance(given, Sequence):
            return [given]
        return [message.get("content") if isinstance(message, Mapping) else None for message in given]


@dataclass(frozen=True)
class AgentGraph:
    """Which agents there are, and which of them name which others' outputs; ``rounds`` None: each runs once.

    With rounds agents run in the order given if they name each other in a circle; a name then stands for the newest
    output there is, and for nothing as long as there is none.
    """

    agents: tuple[AgentPrompt, ...]
    rounds: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names in prompts that are no agents': what has to be given."""
        own = {agent.name for agent in self.agents}
        return tuple(dict.fromkeys(name for agent in self.agents for name in agent.names if name not in own))

    def sources(self, agent: AgentPrompt) -> list[str]:
        """Return the agents whose outputs ``agent`` names."""
        own = {each.name for each in self.agents}
        return [name for name in agent.names if name in own]

    def order(self) -> list[AgentPrompt]:
        """Return the agents so that each runs behind those it names; raises ``BadOption`` for a circle without rounds.

        Of those that could run next the one given first does.
        """
        by_name = {agent.name: agent for agent in self.agents}
        sorter = TopologicalSorter({agent.name: self.sources(agent) for agent in self.agents})
        try:
            sorter.prepare()
        except CycleError as error:
            if self.rounds is not None:
                return list(self.agents)
            circle = " -> ".join(error.args[1])
            message = f"agents wait for each other: {circle} (give rounds=, how often each of them runs)"
            raise BadOption(message) from None
        ready, order = set[str](), list[AgentPrompt]()
        while sorter.is_active():
            ready.update(sorter.get_ready())
            following = next(name for name in by_name if name in ready)
            ready.remove(following)
            sorter.done(following)
            order.append(by_name[following])
        return order

    def check_inputs(self, given: Iterable[str]) -> None:
        """Raise ``BadPrompt`` unless just the ``inputs`` are given."""
        wanted, names = self.inputs, list(given)
        if missing := [name for name in wanted if name not in names]:
            asking = next(agent.name for agent in self.agents if missing[0] in agent.names)
            message = (
                f"{{{{{missing[0]}}}}} in the prompt of agent {asking!r} is neither an agent nor given"
                f"{closest(missing[0], [*names, *(agent.name for agent in self.agents)])} "
                f"(inputs: {', '.join(wanted)})"
            )
            raise BadPrompt(message)
        if unknown := [name for name in names if name not in wanted]:
            message = f"unknown input {unknown[0]!r}{closest(unknown[0], list(wanted))} (inputs: {_listed(wanted)})"
            raise BadPrompt(message)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _filled(text: str, value: Callable[[str], Iterable[Part]]) -> list[Part]:
    def parts() -> Iterable[Part]:
        for piece in fields_of(text):
            if isinstance(piece, Field):
                yield from value(str(piece))
            else:
                yield piece

    return list(joined(parts()))
