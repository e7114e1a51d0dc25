"""Which rows: budgets, the best of them, the first of each chunk, and windows. Scores go in, row indices come out."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch

from nbkv.kv import Span


def count(budget: float, n: int) -> int:
    """Return how many of ``n`` rows a ``budget`` between 0 and 1 allows; any budget above 0 allows one."""
    return min(n, ceil(budget * n - 1e-9))


def best(scores: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
    """Return the ``n`` of ``rows`` ``[R]`` with the highest ``scores`` ``[R]``, in order of position."""
    if n >= len(rows):
        return rows
    return rows[scores.topk(n).indices.sort().values]


def first(spans: Sequence[Span], k: int) -> list[int]:
    """Return the first ``k`` positions of each of ``spans``."""
    return [at for span in spans for at in range(span.start, min(span.stop, span.start + k))]


def windows(picked: torch.Tensor, rows: torch.Tensor, size: int, hits: int) -> torch.Tensor:
    """Return ``rows`` of all windows of ``size`` positions in which at least ``hits`` of ``picked`` lie.

    Window grouping as in CacheClip (arXiv 2510.10129): the windows tile the prompt.
    """
    groups, held = picked // size, rows // size
    counts = torch.bincount(groups, minlength=int(held.max()) + 1 if len(held) else 1)
    return rows[counts[held] >= hits]


def whole(
    scores: torch.Tensor, rows: torch.Tensor, spans: Sequence[Span], n: int, *, share: float = 0.0
) -> torch.Tensor:
    """Return the rows of whole ``spans``, those with the best single row first, at most ``n`` rows in all.

    A span that no longer fits is left out and smaller ones still tried; if even the best one does not fit, it is cut to
    ``n`` rows around its best row, more of them behind it. ``share`` stops at spans whose best row scores below that
    share of the best one of all.
    """
    if not len(rows) or n <= 0:
        return rows[:0]
    places = torch.full((int(rows.max()) + 1,), -1, dtype=torch.long)
    for index, span in enumerate(spans):
        places[span.start : span.stop] = index
    belongs = places[rows.cpu()].to(rows.device)
    tops = torch.full((len(spans),), float("-inf"), device=rows.device, dtype=scores.dtype)
    tops = tops.scatter_reduce(0, belongs[belongs >= 0], scores[belongs >= 0], "amax")
    sizes = torch.bincount(belongs[belongs >= 0], minlength=len(spans)).tolist()
    chosen, room, most = [], n, float(tops.max())
    order = tops.argsort(descending=True).tolist()
    if sizes[order[0]] > n:
        inside = (belongs == order[0]).nonzero().flatten()
        top = int(scores[inside].argmax())
        begin = max(0, min(top - n // 3, len(inside) - n))
        return rows[inside[begin : begin + n]]
    for index in order:
        if float(tops[index]) < share * most:
            break
        if 0 < sizes[index] <= room:
            chosen.append(index)
            room -= sizes[index]
    return rows[torch.isin(belongs, torch.tensor(chosen, dtype=torch.long, device=rows.device))]
