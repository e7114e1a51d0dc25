"""The cost model of prefill on this model and device: measured once, corrected by the times of requests since.

A pass over some rows costs a fixed overhead, a part for each row, and a part for each pair of a row and a key (its
attention); KV that is put elsewhere costs a part for each token. A pass over rows scattered among cached ones costs
more than one behind them, and one whose attention is looked at more than that, so both are timed by themselves. That is
all a choice between strategies needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from nbkv.context import Context
from nbkv.families.routing.experience import Corrections, noted
from nbkv.families.routing.timed_passes import best_times
from nbkv.models.adapter import ModelAdapter

Costs = tuple[float, float, float]  # seconds of a pass, of each row, and of each pair of a row and a key


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds: ``overhead`` of a pass, per ``row``, per ``pair`` of a row and a key; per token to ``move`` or ``copy``.

    Moved are tokens of chunks, whose keys are rotated to other positions; copied are those of a prefix. ``scattered``
    are overhead, row and pair of a pass over rows that stand among cached ones, ``watched`` those of one that chooses
    rows by what it attends to (None: as any other pass). ``corrections`` are what requests have taught since.
    """

    overhead: float
    row: float
    pair: float
    move: float = 0.0
    copy: float = 0.0
    scattered: Costs | None = None
    watched: Costs | None = None
    corrections: Corrections = field(default_factory=Corrections)

    def run(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of ``rows`` over ``keys`` tokens in all, themselves included."""
        return self._plain(rows, keys) * self.corrections.of(rows, keys) if rows else 0.0

    def _plain(self, rows: int, keys: int) -> float:
        return self.overhead + rows * self.row + self.pair * _causal(rows, keys)

    def scaled(self, pace: float) -> CostModel:
        """Return the costs of passes that take ``pace`` times as long."""
        overhead, row, pair = _times(pace, (self.overhead, self.row, self.pair))
        scattered, watching = (known and _times(pace, known) for known in (self.scattered, self.watched))
        return replace(self, overhead=overhead, row=row, pair=pair, scattered=scattered, watched=watching)

    def run_scattered(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of ``rows`` scattered among ``keys`` tokens, of which the others have K/V."""
        return self._run(self.scattered, rows, keys)

    def run_watched(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of ``rows`` over ``keys`` tokens, whose attention is looked at."""
        return self._run(self.watched, rows, keys)

    def _run(self, known: Costs | None, rows: int, keys: int) -> float:
        if known is None or not rows:
            return self.run(rows, keys)
        overhead, row, pair = known
        return overhead + rows * row + pair * _among(rows, keys)

    @property
    def blend_pace(self) -> float:
        """Return how many times as long as expected blends take before any was timed: as other passes do.

        Passes apart are not corrected by plain ones, for those are off by their own misfit; blends have a pace.
        """
        return 1.0 if self.scattered is None else self.corrections.others

    def rows(self, rows: int, keys: int) -> float:
        """Return what ``rows`` more in a pass over ``keys`` tokens cost in seconds."""
        return (rows * self.row + self.pair * _causal(rows, keys)) * self.corrections.of(rows, keys)

    def corrected(self, times: Iterable[tuple[int, int, float]]) -> CostModel:
        """Return the costs as passes of so many rows and keys, which took so many seconds, correct them."""
        return replace(self, corrections=Corrections.by(times, self._plain))


def _causal(rows: int, keys: int) -> float:
    """Return how many pairs of a row and a key there are where the last ``rows`` of ``keys`` tokens see all before."""
    return rows * (keys - rows / 2)


def _among(rows: int, keys: int) -> float:
    """Return the same for rows anywhere among the keys, which are counted as if they saw all of them."""
    return rows * keys


def costs(ctx: Context) -> CostModel:
    """Return the costs on ``ctx``'s model, measured now if they are not known; it takes a second or two then.

    The times of requests since correct them.
    """
    known = ctx.verdicts.get(_name(ctx))
    if known is None:
        known = asdict(measure(ctx.adapter))
        del known["corrections"]
        ctx.verdicts.put(_name(ctx), known)
    apart = {name: known[name] and tuple(known[name]) for name in ("scattered", "watched")}  # JSON has lists
    return CostModel(**(known | apart)).corrected(noted(ctx))


def are_known(ctx: Context) -> bool:
    """Return whether the costs on ``ctx``'s model have been measured."""
    return ctx.verdicts.get(_name(ctx)) is not None


def _name(ctx: Context) -> str:
    return f"costs of passes@{ctx.model}@{torch.get_num_threads()}"


def measure(adapter: ModelAdapter) -> CostModel:
    """Time passes of several lengths and relocations of K/V; needs a model that continues from our cache."""
    seconds = best_times(adapter)

    def fitted(what: str, pairs: Callable[[int, int], float]) -> Costs | None:
        some = {(rows, keys): took for (name, rows, keys), took in seconds.items() if name == what}
        return _fit(list(some), list(some.values()), pairs) if some else None

    overhead, row, pair = fitted("pass", _causal) or (0.0, 0.0, 0.0)
    return CostModel(
        overhead=overhead,
        row=row,
        pair=pair,
        move=next(took for (name, *_), took in seconds.items() if name == "move"),
        copy=next(took for (name, *_), took in seconds.items() if name == "copy"),
        scattered=fitted("scattered", _among),
        watched=fitted("watched", _among),
    )


def _times(pace: float, known: Costs) -> Costs:
    overhead, row, pair = known
    return overhead * pace, row * pace, pair * pace


def _fit(
    shapes: Sequence[tuple[int, int]], seconds: Sequence[float], pairs: Callable[[int, int], float] = _causal
) -> Costs:
    """Return overhead, cost per row and per pair that explain ``seconds`` best, relative to each; none is negative."""
    columns = np.array([(1.0, rows, pairs(rows, keys)) for rows, keys in shapes])
    weights = 1 / np.maximum(np.array(seconds), 1e-9)
    kept, found = [0, 1, 2], np.zeros(3)
    while kept:
        solved = np.linalg.lstsq(columns[:, kept] * weights[:, None], np.ones(len(seconds)), rcond=None)[0]
        if (solved >= 0).all():
            found[kept] = solved
            break
        del kept[int(solved.argmin())]
    return float(found[0]), float(found[1]), float(found[2])
