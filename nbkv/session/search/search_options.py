"""What a search is asked for beside its prompt, read and refused where it cannot be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ParamSpec, TypeVar

from nbkv.errors import BadOption, UnknownName, closest
from nbkv.families.search.methods import METHODS, SearchMethod, options
from nbkv.families.search.rewards import Embedding, Reward
from nbkv.inference.search.tree_loop import SearchPlan
from nbkv.models.sampling import Sampling
from nbkv.scalars import is_whole, kind_of
from nbkv.session.arguments import TEMPLATE, RequestArguments
from nbkv.specs import read
from nbkv.strategy import Strategy, parse

P = ParamSpec("P")
R = TypeVar("R")

_OWN = "ets"  # the strategy that is a method of search


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of ``session.search`` that ``generate`` has not, and those whose defaults differ.

    ``width`` branches at a time, ``depth`` steps an answer at most. A step ends behind a text of ``step_stop`` or after
    ``step_tokens``. ``method`` None is the session's strategy if that is one, else ``ets``. ``embedding(texts)`` gives
    a vector a step, for methods that compare meanings (None: the model's own mean hidden state).
    """

    width: int = 16
    method: str | SearchMethod | None = None
    depth: int = 16
    step_stop: str | Sequence[str] = "\n"
    step_tokens: int = 256
    embedding: Embedding | None = None
    stop: str | Sequence[str] | None = None
    match: str | None = None
    order: str | None = None
    max_new_tokens: int = 1024
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for what is out of range."""
        for name in ("width", "depth", "step_tokens"):
            if not is_whole(getattr(self, name), 1):
                message = f"{name}={getattr(self, name)!r:.60} is not accepted: {name} is a whole number >= 1"
                raise BadOption(message)
        if self.embedding is not None:
            _check_function("embedding", self.embedding, "None, or a function of a list of texts that gives vectors")

    @classmethod
    def of(cls, given: Mapping[str, object]) -> tuple[SearchOptions, dict[str, object]]:
        """Return the options in ``given`` that are a search's, and those of sampling; raises ``BadOption``."""
        own = {each.name for each in fields(cls)}
        known = [*own, *(each.name for each in fields(Sampling)), *TEMPLATE]
        for name in given:
            if name not in known:
                message = f"unknown option {name!r}{closest(name, known)} (accepted: {', '.join(sorted({*known}))})"
                raise BadOption(message)
        mine: dict[str, Any] = {name: value for name, value in given.items() if name in own}
        made = cls(**mine)
        rest = {name: value for name, value in given.items() if name not in own}
        return made, rest | {"max_new_tokens": made.max_new_tokens, "temperature": made.temperature}

    def asked(self, strategy: Strategy) -> RequestArguments:
        """Return what a request by ``strategy`` is asked for."""
        return RequestArguments(strategy, self.stop, self.match, self.order, force=False)

    def plan(self, reward: Reward, strategy: Strategy) -> SearchPlan:
        """Return how the search goes in a session whose strategy is ``strategy``; raises ``BadOption``."""
        _check_function("reward", reward, "a function of a list of texts that gives as many numbers")
        method = self.method
        if method is None:
            method = strategy if isinstance(strategy, SearchMethod) else _OWN
        return SearchPlan(
            method=method_of(method),
            reward=reward,
            width=int(self.width),
            depth=int(self.depth),
            step_stop=_texts(self.step_stop),
            step_tokens=int(self.step_tokens),
            embedding=self.embedding,
        )


def spells_out_search(method: Callable[P, R]) -> Callable[P, R]:
    """Write the options of a search into the signature of ``method``, before its ``**options``."""
    written = inspect.signature(method)
    *own, last = written.parameters.values()
    options = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(SearchOptions)
    ]
    method.__signature__ = written.replace(parameters=[*own, *options, last])  # type: ignore[attr-defined]
    return method


def method_of(spec: str | SearchMethod) -> SearchMethod:
    """Return the method that ``spec`` such as ``"rebase"`` or ``"ets(lambda_b=2)"`` names; an object as it is.

    Raises ``UnknownName`` and ``BadOption``.
    """
    if isinstance(spec, SearchMethod):
        return spec
    accepted = ", ".join([_OWN, *METHODS])
    try:
        written = read(spec)
    except ValueError as error:
        message = f"method={spec!r:.60} is not accepted: method is {accepted}, or name(option=value)"
        raise BadOption(message) from error
    if written.name not in METHODS:
        if written.name != _OWN:
            message = f"unknown method {written.name!r}{closest(written.name, [_OWN, *METHODS])} (known: {accepted})"
            raise UnknownName(message)
        found = parse(spec)
        assert isinstance(found, SearchMethod)  # noqa: S101  (that strategy is one)
        return found
    kind = METHODS[written.name]
    known, named = options(kind), dict[str, Any](written.options)
    if len(written.values) == 1:
        named = {known[0]: written.values[0]} | named
    for name in named:
        if name not in known or len(written.values) > 1:
            message = f"unknown option {name!r} in {spec!r}{closest(name, known)} (options: {', '.join(known)})"
            raise BadOption(message)
    return kind(**named)


def _check_function(name: str, given: object, accepted: str) -> None:
    if not callable(given):
        message = f"{name} is {kind_of(given)} (accepted: {accepted})"
        raise BadOption(message)


def _texts(given: object) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else given
    good = isinstance(texts, Sequence) and bool(texts) and all(isinstance(text, str) and text for text in texts)
    if not good:
        message = f"step_stop={given!r:.60} is not accepted: step_stop is text or a list of texts, none empty"
        raise BadOption(message)
    return tuple(texts)  # type: ignore[arg-type]  # looked at above
