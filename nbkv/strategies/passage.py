"""Passage: recompute whole sentences that the question attends to, on chunks encoded behind a primer. Our own.

What published selections miss is that the state a question needs rarely sits on the row it attends to: a line's meaning
is gathered on its last tokens, which nothing points at until it is right. So rows are taken by sentence, not singly;
and since it is the rows at a chunk's head that look like the beginning of a document and draw attention away, chunks
are best encoded behind a primer (``session.chunk(sink="auto")``). The question itself says which sentences matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.options import check_choice, check_count, check_share
from nbkv.models.attention.layer import Attended
from nbkv.selection import best, whole

_LOOKING = ("last", "all")
_WEAK, _SMALL = 0.3, 0.2


class _Strongest:
    """The largest attention weight that each row received, over layers, heads and query rows."""

    def __init__(self, partial: PartialPrefill) -> None:
        self._scores = torch.zeros(partial.length, device=partial.ids.device)

    def __call__(self, seen: Attended) -> None:
        torch.maximum(self._scores, seen.weights.amax(dim=(0, 1)).to(self._scores.device), out=self._scores)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        return self._scores[rows]


@dataclass(kw_only=True, repr=False)
class Passage(Blend):
    """Let the question run once over what is cached, take the sentences it looks at, and what those look at early on.

    A sentence is scored by the largest attention, over layers and heads, that the prompt's last row pays to one of its
    rows (``looking="all"``: that any row of the question pays). Sentences are taken best first while ``budget`` has
    room and their score is at least ``share`` of the best one's (None: 0.3 up to a budget of 0.2, where weaker ones
    cost more than they give; a larger budget is used whole). A sentence ends at a token whose text ends with one of
    ``. ! ?`` or a line break, and after ``longest`` rows at the latest. ``hop``: share of the reused rows that is run
    besides, through the first ``depth`` of the layers only: those that the chosen sentences attend to there.
    """

    name: ClassVar[str] = "passage"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "recompute the whole sentences that the question attends to"
    needs: ClassVar[tuple[str, ...]] = (*Blend.needs, "attention")

    budget: float = 0.2
    share: float | None = None
    looking: str = "last"
    hop: float = 0.0
    depth: float = 0.4
    longest: int = 48

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for options out of range."""
        check_share(self, "budget", "hop", "depth")
        if self.share is not None:
            check_share(self, "share")
        check_count(self, "longest", least=1)
        check_choice(self, "looking", _LOOKING)

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows of the best sentences; the hop's rows have been through their layers then."""
        room = partial.room(self.budget)
        if not room:
            return partial.reused[:0]
        share = self.share if self.share is not None else _WEAK if self.budget <= _SMALL else 0.0
        scores = _Strongest(partial)
        partial.scout(scores, partial.last if self.looking == "last" else partial.question)
        chosen = whole(scores.of(partial.reused), partial.reused, partial.sentences(self.longest), room, share=share)
        if self.hop:
            self._early(partial, chosen, max(1, round(self.depth * partial.n_layers)))
        return chosen

    def _early(self, partial: PartialPrefill, chosen: torch.Tensor, depth: int) -> None:
        """Run what the chosen rows attend to in the first ``depth`` layers through these layers, with them."""
        scores = _Strongest(partial)
        partial.begin(chosen)
        with partial.watching(scores, chosen):
            partial.advance(depth, select=True)
        others = partial.reused[~torch.isin(partial.reused, chosen)]
        hops = best(scores.of(others), others, partial.room(self.hop))
        partial.begin(torch.cat([chosen, hops]))
        partial.advance(depth, select=False)
