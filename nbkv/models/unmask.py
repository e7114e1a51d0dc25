"""Unmasking rules: which of a block's masked tokens a denoising pass fills.

A rule is given the distributions of the candidates only, the masked tokens of the block (or of the part of it that is
filled first), and returns which of them are kept now, always at least one. Passes follow a schedule: ``steps`` of
them share ``size`` tokens as evenly as can be, the first ones take what is left over.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch

from nbkv.errors import BadOption, closest
from nbkv.scalars import is_number, is_whole
from nbkv.specs import Spec, read


class Candidates(NamedTuple):
    """The masked tokens a pass may fill, in order of position.

    ``confidence`` ``[m]`` is the probability of the token chosen for each, ``chances`` ``[m, V]`` the distributions
    they were chosen from; ``size`` is the length of the block (or part) they lie in, ``step`` the pass over it,
    from 0.
    """

    confidence: torch.Tensor
    chances: torch.Tensor
    size: int
    step: int

    @property
    def entropy(self) -> torch.Tensor:
        """Return the entropy ``[m]`` of each distribution in nats."""
        entropy: torch.Tensor = torch.special.entr(self.chances).sum(dim=-1)
        return entropy


class Rule:
    """Which candidates are filled."""

    @abstractmethod
    def pick(self, among: Candidates) -> torch.Tensor:
        """Return bool ``[m]``: which candidates are filled now, one at least."""


@dataclass(frozen=True, kw_only=True)
class Scheduled(Rule):
    """A rule with a schedule of ``steps`` passes a block (None: one for each token)."""

    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse ``steps`` that are no count."""
        given = self.steps
        if given is not None and not is_whole(given, 1):
            message = f"steps={given!r} is not accepted: steps is a whole number of passes >= 1, or None"
            raise BadOption(message)

    def scheduled(self, among: Candidates) -> int:
        """Return how many tokens the schedule fills in this pass."""
        steps = min(self.steps or among.size, among.size)
        due = among.size // steps + (among.step % steps < among.size % steps)
        return min(due, len(among.confidence))


@dataclass(frozen=True, kw_only=True)
class Static(Scheduled):
    """The most confident ones, as many as are scheduled (low-confidence remasking; LLaDA, arXiv 2502.09992)."""

    def pick(self, among: Candidates) -> torch.Tensor:
        """Return the scheduled number of most confident candidates."""
        return _best(among.confidence, self.scheduled(among))


@dataclass(frozen=True, kw_only=True)
class Dynamic(Scheduled):
    """All above ``threshold`` if these are at least as many as scheduled, else the most confident (SDAR, 2510.06303).

    With the default schedule of one token a pass this is the rule of Fast-dLLM (arXiv 2505.22618) too.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        """Refuse a threshold that is no probability."""
        super().__post_init__()
        given = self.threshold
        if not (is_number(given) and 0 <= given <= 1):
            message = f"threshold={given!r} is not accepted: threshold is a probability between 0 and 1"
            raise BadOption(message)

    def pick(self, among: Candidates) -> torch.Tensor:
        """Return the confident candidates, or the scheduled number of best ones."""
        sure, due = among.confidence > self.threshold, self.scheduled(among)
        return sure if int(sure.sum()) >= due else _best(among.confidence, due)


@dataclass(frozen=True, kw_only=True)
class Entropy(Rule):
    """The most certain ones whose joint error is bounded (EB-sampler, arXiv 2505.24857): no schedule.

    In order of entropy, all up to the last whose predecessors' entropies sum to at most ``bound`` nats.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a bound that is no entropy."""
        given = self.bound
        if not (is_number(given) and given >= 0):
            message = f"bound={given!r} is not accepted: bound is an entropy in nats >= 0"
            raise BadOption(message)

    def pick(self, among: Candidates) -> torch.Tensor:
        """Return the candidates within the bound; the most certain one always is."""
        ordered, order = among.entropy.sort(stable=True)
        within = ordered.cumsum(0) - ordered <= self.bound
        within[0] = True
        picked = torch.zeros_like(within)
        picked[order] = within
        return picked


@dataclass(frozen=True, kw_only=True)
class Sequential(Scheduled):
    """The first ones, as many as are scheduled: left to right."""

    def pick(self, among: Candidates) -> torch.Tensor:
        """Return the scheduled number of first candidates."""
        places = torch.arange(len(among.confidence), device=among.confidence.device)
        return places < self.scheduled(among)


_RULES: dict[str, type[Rule]] = {"dynamic": Dynamic, "entropy": Entropy, "sequential": Sequential, "static": Static}
_FIRST = {"dynamic": "threshold", "entropy": "bound"}  # what a value without a name means; else steps


def parse(spec: object) -> Rule:
    """Return the rule that ``spec`` names, such as ``"dynamic(threshold=0.9)"``; raises ``BadOption``."""
    accepted = f"a rule is one of {', '.join(map(_usage, _RULES))}"
    try:
        written = read(spec)
    except ValueError as error:
        message = f"unmask={spec!r} is not accepted: {error}; {accepted}"
        raise BadOption(message) from error
    if written.name not in _RULES:
        message = f"unmask={spec!r} is not accepted{closest(written.name, list(_RULES))}: {accepted}"
        raise BadOption(message)
    return _RULES[written.name](**_options(written, str(spec)))


def _options(written: Spec, spec: str) -> dict[str, object]:
    name, values, named = written
    known = [option.name for option in fields(_RULES[name])]  # type: ignore[arg-type]
    options = {**dict(zip([_FIRST.get(name, "steps")], values, strict=False)), **named}
    if len(values) > 1 or not set(options) <= set(known):
        message = f"unmask={spec!r}: options of {name} are {', '.join(known)} (accepted: {_usage(name)})"
        raise BadOption(message)
    return options


def _usage(name: str) -> str:
    return {"dynamic": "dynamic(threshold=0.9)", "entropy": "entropy(bound=0.1)"}.get(name, f"{name}(steps=…)")


def _best(confidence: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count`` highest of ``confidence``; of equal ones the first."""
    picked = torch.zeros_like(confidence, dtype=torch.bool)
    picked[confidence.sort(descending=True, stable=True).indices[:count]] = True
    return picked
