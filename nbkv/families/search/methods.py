"""How a search spends its width: how many new steps each open leaf of the tree is given.

REBASE (arXiv 2408.00724), beam search and DVTS as ETS compares itself with them (arXiv 2502.13575, section 5.1, and its
authors' code): at every depth the leaves share what is left of the width once ended answers have taken theirs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from nbkv.errors import BadOption
from nbkv.families.search.tree import SearchNode
from nbkv.scalars import is_number, is_whole

_ROUNDING = 1e-9  # a share that is whole but for rounding is not rounded up

SOFTENS = "a number > 0 (of the softmax over rewards)"


class SearchMethod:
    """Says how many children each leaf gets."""

    name: ClassVar[str]

    @property
    def spec(self) -> str:
        """Return its name and the options that differ from their defaults."""
        changed = [each for each in fields(self) if getattr(self, each.name) != each.default]  # type: ignore[arg-type]  # all of them are dataclasses
        told = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in changed)
        return f"{self.name}({told})" if told else self.name

    @property
    def embeds(self) -> bool:
        """Return whether it asks what the leaves mean: their ``embedding``."""
        return False

    @abstractmethod
    def shares(self, leaves: Sequence[SearchNode], width: int, ended: Sequence[SearchNode]) -> list[int]:
        """Return for each of the scored ``leaves`` how many steps go on from it; 0 prunes it.

        ``width`` is that of the whole search, ``ended`` are the leaves whose answers have ended.
        """


@dataclass(frozen=True)
class Rebase(SearchMethod):
    """Each leaf's share of the width is the softmax of its reward over ``temperature``, the best rounded up first."""

    name: ClassVar[str] = "rebase"

    temperature: float = 0.2

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for a temperature that is not above 0."""
        check_temperature(self.temperature)

    def shares(self, leaves: Sequence[SearchNode], width: int, ended: Sequence[SearchNode]) -> list[int]:
        """Return the shares of what is left of ``width``."""
        return balanced([leaf.score for leaf in leaves], width - len(ended), self.temperature)


@dataclass(frozen=True)
class Beam(SearchMethod):
    """The best ``keep`` leaves (None: the square root of the width that is left) get equally many children."""

    name: ClassVar[str] = "beam"

    keep: int | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``keep`` is None or a whole number from 1 on."""
        _check_count("keep", self.keep)

    def shares(self, leaves: Sequence[SearchNode], width: int, ended: Sequence[SearchNode]) -> list[int]:
        """Return equal shares for the best, in all no more than what is left of ``width``."""
        left = max(0, width - len(ended))
        keep = min(self.keep or math.ceil(math.sqrt(left)), len(leaves), left)
        order = sorted(range(len(leaves)), key=lambda at: -leaves[at].score)
        shares = [0] * len(leaves)
        for rank, at in enumerate(order[:keep]):
            shares[at] = left // keep + (rank < left % keep)
        return shares


@dataclass(frozen=True)
class Dvts(SearchMethod):
    """Diverse verifier tree search: ``subtrees`` (None: the root of the width) that each keep their best leaf only."""

    name: ClassVar[str] = "dvts"

    subtrees: int | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``subtrees`` is None or a whole number from 1 on."""
        _check_count("subtrees", self.subtrees)

    def shares(self, leaves: Sequence[SearchNode], width: int, ended: Sequence[SearchNode]) -> list[int]:
        """Return for the best leaf of each subtree what its ended answers have left of its part of ``width``."""
        if not leaves[0].depth:
            return [width]
        count = min(self.subtrees or math.ceil(math.sqrt(width)), width)
        left = [sum(first * count // width == at for first in range(width)) for at in range(count)]
        for node in ended:
            left[node.first * count // width] -= 1
        shares, best = [0] * len(leaves), dict[int, int]()
        for at, leaf in enumerate(leaves):
            subtree = leaf.first * count // width
            if subtree not in best or leaf.score > leaves[best[subtree]].score:
                best[subtree] = at
        for subtree, at in best.items():
            shares[at] = max(0, left[subtree])
        return shares


METHODS: dict[str, type[Rebase | Beam | Dvts]] = {each.name: each for each in (Rebase, Beam, Dvts)}


def balanced(rewards: Sequence[float], width: int, temperature: float) -> list[int]:
    """Return REBASE's counts: shares of ``width`` by the softmax of rewards, from the best on rounded up.

    What is rounded up is taken from the worse ones, so the counts add up to ``width`` (0 where it is less than 1).
    """
    counts, left = [0] * len(rewards), max(0, width)
    if not rewards:
        return counts
    weights = np.exp((np.asarray(rewards, dtype=np.float64) - max(rewards)) / temperature)
    rest = float(weights.sum())
    for at in sorted(range(len(rewards)), key=lambda at: -rewards[at]):
        share = left * float(weights[at]) / rest if rest > 0 else 0.0
        counts[at] = min(left, math.ceil(share - _ROUNDING))
        left -= counts[at]
        rest -= float(weights[at])
    return counts


def check_temperature(temperature: object) -> None:
    """Raise ``BadOption`` unless the temperature of a softmax over rewards is a finite number above 0."""
    if not is_number(temperature) or not 0 < temperature < math.inf:
        message = f"temperature={temperature!r} is not accepted: temperature is {SOFTENS}"
        raise BadOption(message)


def options(method: type[Rebase | Beam | Dvts]) -> list[str]:
    """Return the names of the options of ``method``."""
    return [option.name for option in fields(method)]


def _check_count(name: str, value: object) -> None:
    if value is not None and not is_whole(value, 1):
        message = f"{name}={value!r} is not accepted: {name} is None or a whole number >= 1"
        raise BadOption(message)
