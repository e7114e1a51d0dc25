"""ETS: a tree search whose branches share their K/V and still say different things (arXiv 2502.13575)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nbkv.families.options import check, check_choice
from nbkv.families.prefix.base import Prefix
from nbkv.families.search.clusters import clusters
from nbkv.families.search.methods import SOFTENS, SearchMethod, balanced
from nbkv.families.search.program import Weights, kept
from nbkv.families.search.tree import SearchNode
from nbkv.scalars import is_number


@dataclass(kw_only=True, repr=False)
class EfficientTreeSearch(Prefix, SearchMethod):
    """Prune the leaves of ``session.search`` by an integer program, then share the width out as REBASE does.

    ``lambda_b``: how much the K/V of what is kept costs, as a share of all; ``lambda_d``: what covering all clusters of
    meaning is worth; ``temperature``: that of the softmax over rewards; ``distance``: from which cosine distance on
    steps mean different things; ``cost``: K/V in ``bytes``, or every step alike (``nodes``, as in the authors' code).
    A prompt asked for alone is continued like ``prefix``: with one answer there is nothing to prune.
    """

    name: ClassVar[str] = "ets"
    family: ClassVar[str] = "search"
    paper: ClassVar[str] = "ETS, arXiv 2502.13575"
    summary: ClassVar[str] = "tree search (`session.search`): keep branches that share KV and differ in meaning"

    lambda_b: float = 1.0
    lambda_d: float = 1.5
    temperature: float = 0.2
    distance: float = 0.05
    cost: str = "bytes"

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for numbers below 0, a temperature of 0 and unknown costs."""
        for name in ("lambda_b", "lambda_d"):
            check(self, name, lambda value: is_number(value) and 0 <= value < float("inf"), "a number >= 0")
        check(self, "distance", lambda value: is_number(value) and 0 <= value <= 2, "a cosine distance from 0 to 2")  # noqa: PLR2004
        check_choice(self, "cost", ("bytes", "nodes"))
        check(self, "temperature", lambda value: is_number(value) and 0 < value < float("inf"), SOFTENS)

    @property
    def embeds(self) -> bool:
        """Return whether meanings count."""
        return self.lambda_d > 0

    def shares(self, leaves: Sequence[SearchNode], width: int, ended: Sequence[SearchNode]) -> list[int]:
        """Return REBASE's shares among the leaves that the program keeps; the others get none."""
        left = width - len(ended)
        gains = balanced([leaf.score for leaf in leaves], left, self.temperature)
        if len(leaves) == 1 or left < 1:
            return gains
        every = {node.number: node for leaf in leaves for node in leaf.path()}
        costs = {number: float(node.nbytes) if self.cost == "bytes" else 1.0 for number, node in every.items()}
        meant = [leaf.embedding for leaf in leaves if leaf.embedding is not None]
        groups = clusters(meant, self.distance) if self.embeds else [0] * len(leaves)
        keeps = kept(leaves, gains, costs, groups, Weights(self.lambda_b, self.lambda_d if self.embeds else 0.0))
        chosen = [at for at, keep in enumerate(keeps) if keep]
        shares = [0] * len(leaves)
        counts = balanced([leaves[at].score for at in chosen], left, self.temperature)
        for at, count in zip(chosen, counts, strict=True):
            shares[at] = count
        return shares
