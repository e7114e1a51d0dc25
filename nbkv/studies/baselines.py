"""The dumbest rivals: rows chosen without a look at the model. A selection must beat them before it means anything."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch

from nbkv.families.blend.base import Blend
from nbkv.selection import best, whole

if TYPE_CHECKING:
    from nbkv.families.blend.partial import PartialPrefill

_LONGEST = 48  # rows of a sentence


@dataclass(kw_only=True, repr=False)
class RandomRows(Blend):
    """Recompute ``budget`` of the reused rows, any; not registered."""

    budget: float = 0.15

    @property
    def spec(self) -> str:
        """Return its name and its budget."""
        return f"random(budget={self.budget})"

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return rows drawn by the prompt's own tokens, so that a prompt has the same ones every time."""
        drawn = torch.Generator().manual_seed(int(partial.ids.sum()))
        scores = torch.rand(len(partial.reused), generator=drawn).to(partial.ids.device)
        return best(scores, partial.reused, partial.room(self.budget))


@dataclass(kw_only=True, repr=False)
class LexicalRows(Blend):
    """Recompute whole sentences that share the question's rare words; not registered.

    A sentence is scored by the words it shares with what stands behind the chunks, each worth its inverse document
    frequency over the prompt's sentences.
    """

    budget: float = 0.15

    @property
    def spec(self) -> str:
        """Return its name and its budget."""
        return f"lexical(budget={self.budget})"

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows of the sentences with the highest scores, as many as the budget has room for."""
        spans = partial.sentences(_LONGEST)
        texts = [_words("".join(partial.pieces(partial.ids[span.start : span.stop].tolist()))) for span in spans]
        asked = _words("".join(partial.pieces(partial.ids[partial.question].tolist())))
        found = Counter(word for words in texts for word in words)
        scores = torch.zeros(partial.length, device=partial.ids.device)
        for span, words in zip(spans, texts, strict=True):
            scores[span.start : span.stop] = sum(log(len(spans) / found[word]) for word in words & asked)
        return whole(scores[partial.reused], partial.reused, spans, partial.room(self.budget))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
