"""From attention to scores: what a content-free query takes anyway is subtracted, and outlier tokens are dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbkv.kv import Span
from nbkv.stores.base import Scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEVIATIONS = 2  # below the mean, of the tokens of one document
_KEPT = 64  # calibrations of a session: one number for each token of the documents


def token_scores(query: NDArray[np.float64], neutral: NDArray[np.float64] | None, span: Span) -> NDArray[np.float64]:
    """Return the scores of one document's tokens, nan for those that are dropped as outliers.

    What the ``query`` attends to less what the ``neutral`` one does (None: not calibrated, nothing dropped). Tokens are
    dropped that lie more than two standard deviations below their document's mean (arXiv 2410.02642, as released).
    """
    own = query[span.start : span.stop]
    if neutral is None:
        return own.copy()
    scores = own - neutral[span.start : span.stop]
    if len(scores) > 1:  # one token has no deviation
        scores[scores < scores.mean() - _DEVIATIONS * scores.std(ddof=1)] = np.nan
    return scores


def document_scores(tokens: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    """Return the score of each document: the sum of its tokens' that were not dropped."""
    return tuple(float(np.nansum(each)) for each in tokens)


def remembered(scratch: Scratch, about: Hashable, measure: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return what the neutral query attends to in the documents that ``about`` names; measured where it is not known.

    Kept on a session's ``scratch``, so that the next query on the same documents need not ask again.
    """
    known: OrderedDict[Hashable, NDArray[np.float64]] = scratch.setdefault("rerank", OrderedDict())
    if about not in known:
        known[about] = measure()
    known.move_to_end(about)
    while len(known) > _KEPT:
        known.popitem(last=False)
    return known[about]
