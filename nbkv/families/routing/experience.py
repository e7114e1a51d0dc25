"""What requests took: medians of their times correct the costs that were measured once, so that no busy moment counts.

A plane through a few measured points is off here and there, and a busy moment may have spoiled one of them. Passes of a
size that requests make again and again are known better from these. What is noted is bounded: the newest count.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import log2

import torch

from nbkv.context import Context
from nbkv.strategy import Strategy

_NEWEST = 7  # times of one size, or of one strategy, that count
_FEW = 3  # as many it takes until they count: the median of three leaves one busy moment out
_KEPT = 96  # passes that are remembered
_PER_OCTAVE = 2  # sizes that are told apart between a number and its double
_MISFIT = 1.25  # by less than this passes of other sizes are not corrected: so much a plane is off by itself
_FARTHEST = 3.0  # a correction on the whole is between a third and this

Size = tuple[int, int]


@dataclass(frozen=True)
class Corrections:
    """How many times as long as measured passes take: those of a size that was ``seen`` often, and all ``others``."""

    seen: Mapping[Size, float] = field(default_factory=dict)
    others: float = 1.0

    def of(self, rows: int, keys: int) -> float:
        """Return it for a pass of ``rows`` over ``keys`` tokens."""
        return self.seen.get(_size(rows, keys), self.others)

    @classmethod
    def by(cls, times: Iterable[tuple[int, int, float]], run: Callable[[int, int], float]) -> Corrections:
        """Return what ``times`` (rows, keys, seconds; the newest last) say, where ``run(rows, keys)`` was expected."""
        ratios = defaultdict[Size, list[float]](list)
        for rows, keys, seconds in times:
            if (expected := run(rows, keys)) > 0:
                ratios[_size(rows, keys)].append(seconds / expected)
        seen = {size: statistics.median(each[-_NEWEST:]) for size, each in ratios.items() if len(each) >= _FEW}
        whole = statistics.median(seen.values()) if seen else 1.0
        off = max(whole, 1 / whole)
        return cls(seen, 1.0 if off < _MISFIT else min(_FARTHEST, max(1 / _FARTHEST, whole)))


def note_pass(ctx: Context, rows: int, keys: int, seconds: float) -> None:
    """Remember that a request's pass of ``rows`` over ``keys`` tokens took ``seconds``."""
    if rows > 0 and seconds > 0:
        ctx.verdicts.hold(_passes(ctx), [*noted(ctx)[1 - _KEPT :], (rows, keys, seconds)])


def noted(ctx: Context) -> list[tuple[int, int, float]]:
    """Return what ``note_pass`` was told, the newest last."""
    return list(ctx.verdicts.get(_passes(ctx)) or [])


def pace(ctx: Context, strategy: Strategy, length: int, unknown: float = 1.0) -> float:
    """Return how many times as long as expected requests of about ``length`` tokens took that ``strategy`` served.

    Where fewer than a few of that length are known, those of any length count; ``unknown`` where none is. It is 1
    of exact strategies: what these run are plain passes, which are corrected by themselves.
    """
    if strategy.exact:
        return 1.0
    known = _paces(ctx, strategy)
    near = [ratio for tokens, ratio in known if _octave(tokens) == _octave(length)]
    until = [unknown] * (_FEW - 1)
    counted = near if len(near) >= _FEW else [*until, *(ratio for _, ratio in known)]
    return statistics.median(counted[-_NEWEST:])


def learn_pace(ctx: Context, strategy: Strategy, length: int, expected: float, took: float) -> None:
    """Let a request of ``length`` tokens that ``took`` seconds, not ``expected`` (uncorrected), count in ``pace``."""
    if expected > 0 and not strategy.exact:
        seen = min(_FARTHEST, max(1 / _FARTHEST, took / expected))
        ctx.verdicts.hold(_name(ctx, strategy), [*_paces(ctx, strategy)[1 - _KEPT :], (length, seen)])


def _size(rows: int, keys: int) -> Size:
    return _octave(rows), _octave(keys)


def _octave(tokens: int) -> int:
    return round(_PER_OCTAVE * log2(max(1, tokens)))


def _passes(ctx: Context) -> str:
    return f"times of passes@{ctx.model}@{torch.get_num_threads()}"


def _paces(ctx: Context, strategy: Strategy) -> list[tuple[int, float]]:
    return list(ctx.verdicts.get(_name(ctx, strategy)) or [])


def _name(ctx: Context, strategy: Strategy) -> str:
    return f"paces by length@{strategy.spec}@{ctx.model}"
