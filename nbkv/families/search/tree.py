"""The tree of a search: a node is one step of an answer, the path to it the answer so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class SearchNode:
    """One step: its ``token_ids`` and ``text``, the ``answer`` up to it, what that is worth, and what became of it.

    ``depth`` counts steps from 1; ``first`` says which of the first steps its answer began with. ``reward`` is None
    until it was scored. ``ended`` says why the answer ends here: ``stop``, ``length``, ``failed`` (its reward),
    ``interrupted``; "" where it may go on. ``children`` went on from it. ``embedding`` ``[d]`` is what its text means,
    where a method asks for that. ``nbytes`` are those of its own K/V.
    """

    number: int
    parent: SearchNode | None = None
    depth: int = 0
    first: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    answer: str = ""
    reward: float | None = None
    ended: str = ""
    children: int = 0
    nbytes: int = 0
    embedding: NDArray[np.float32] | None = None

    def path(self) -> list[SearchNode]:
        """Return the steps up to this one, the first one first."""
        return list(self._up())[::-1]

    @property
    def score(self) -> float:
        """Return the reward; raises ``ValueError`` where there is none."""
        if self.reward is None:
            message = f"step {self.number} was not scored"
            raise ValueError(message)
        return self.reward

    def _up(self) -> Iterator[SearchNode]:
        node: SearchNode | None = self
        while node is not None and node.depth:
            yield node
            node = node.parent
