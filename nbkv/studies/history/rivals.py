"""Other ways to allot the same rows over what was moved: those of `blend`'s own score, and the dumbest there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbkv.strategies.influence import Influence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbkv.families.blend.partial import PartialPrefill


@dataclass(kw_only=True, repr=False)
class ScoreAlone(Influence):
    """No row comes before those that the strategy selects; not registered, as those below are not."""

    title: ClassVar[str] = "its score alone"

    @property
    def spec(self) -> str:
        """Return what it does, in words."""
        return self.title

    def ahead(self, partial: PartialPrefill) -> Sequence[int]:
        """Return the first rows of its order, all that the budget allows."""
        return sorted(self.order(partial)[: partial.allotment.rows(self.budget)].tolist())

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return moved rows, those to run first at the front."""
        return partial.allotment.moved[:0]


@dataclass(kw_only=True, repr=False)
class StalestAlone(ScoreAlone):
    """Rows near behind a change alone."""

    title: ClassVar[str] = "behind changes alone"

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return the moved rows by how much of what they took is stale."""
        moved = partial.allotment.moved
        return moved[np.argsort(-partial.allotment.staleness, kind="stable")]


@dataclass(kw_only=True, repr=False)
class NewestAlone(ScoreAlone):
    """The last rows of the whole history alone, whatever message they are of."""

    title: ClassVar[str] = "the newest alone"

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return the moved rows from the last one on."""
        return partial.allotment.moved[::-1]


@dataclass(kw_only=True, repr=False)
class FirstAlone(ScoreAlone):
    """The first rows behind the first change alone."""

    title: ClassVar[str] = "the first alone"

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return the moved rows from the first one on."""
        return partial.allotment.moved


@dataclass(kw_only=True, repr=False)
class AnyAlone(ScoreAlone):
    """Rows drawn by the prompt's own tokens, so that a prompt has the same ones every time."""

    title: ClassVar[str] = "random"

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return the moved rows in a random order."""
        return np.random.default_rng(int(partial.ids.sum())).permutation(partial.allotment.moved)


@dataclass(kw_only=True, repr=False)
class AnswerFirst(ScoreAlone):
    """The last answer, which is ``answer`` as token ids, then what the strategy selects: by message, not by place."""

    title: ClassVar[str] = "the last answer, then its score"

    answer: tuple[int, ...] = ()

    def order(self, partial: PartialPrefill) -> NDArray[np.int64]:
        """Return the moved rows of the last place in the prompt where the answer stands, the newest first."""
        ids, n = partial.ids.tolist(), len(self.answer)
        at = next((at for at in range(len(ids) - n, -1, -1) if n and tuple(ids[at : at + n]) == self.answer), len(ids))
        moved = partial.allotment.moved
        return moved[(moved >= at) & (moved < at + n)][::-1]


RIVALS = (ScoreAlone, AnswerFirst, NewestAlone, StalestAlone, FirstAlone, AnyAlone)


def rivals(answer: Sequence[int]) -> list[ScoreAlone]:
    """Return every other allotment of `blend`'s rows; ``answer`` are the ids of the last one that have K/V."""
    return [AnswerFirst(answer=tuple(answer)) if kind is AnswerFirst else kind() for kind in RIVALS]
