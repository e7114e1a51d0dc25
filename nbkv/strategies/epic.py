"""EPIC: recompute the first tokens of each chunk, where independence hurts most (arXiv 2410.15332, LegoLink)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.errors import BadOption
from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_count, check_share
from nbkv.selection import first
from nbkv.strategy import Strategy

_USUAL = 16  # tokens of each chunk, the paper's usual k


@dataclass(kw_only=True, repr=False)
class Epic(Blend):
    """Recompute ``first_k`` tokens of every chunk but one that begins the prompt; nothing is looked at to choose them.

    ``first_k`` is 16 unless given. With ``budget`` instead, each chunk gets the same share of it. The form that
    recomputes nothing (LegoLink-0) is ``first_k=0`` on chunks made with ``sink="dummy"``: encoded behind four tokens
    whose KV is dropped.
    """

    name: ClassVar[str] = "epic"
    paper: ClassVar[str] = "EPIC (LegoLink), arXiv 2410.15332"
    summary: ClassVar[str] = "recompute the first tokens of each chunk"

    first_k: int | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for counts and shares out of range, and for both at once."""
        if self.budget is not None:
            check_share(self, "budget")
            if self.first_k is not None:
                message = f"epic takes first_k or budget, not both (first_k={self.first_k!r}, budget={self.budget!r})"
                raise BadOption(message)
        if self.first_k is not None:
            check_count(self, "first_k")

    def at_full_budget(self) -> Strategy:
        """Return this strategy recomputing every reused token."""
        return replace(self, first_k=None, budget=1.0)

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the first rows of each chunk."""
        spans = [span for _, span, _ in partial.placed if span.start]
        if self.budget is None:
            heads = first(spans, _USUAL if self.first_k is None else self.first_k)
            return torch.tensor(heads, dtype=torch.long, device=partial.ids.device)
        reused = partial.reused
        left = [reused[(reused >= span.start) & (reused < span.stop)] for span in spans]
        shares = _shares([len(rows) for rows in left], partial.room(self.budget))
        return torch.cat([reused[:0], *(rows[:share] for rows, share in zip(left, shares, strict=True))])


def _shares(lengths: list[int], room: int) -> list[int]:
    """Return how many of ``room`` rows each chunk gets: its share, rounded so that they sum up to it."""
    total, given, shares, seen = sum(lengths), 0, [], 0
    for length in lengths:
        seen += length
        due = min(seen, room * seen // total)
        shares.append(min(length, due - given))
        given += shares[-1]
    return shares
