"""The cost model of prefill on this model and device: measured once, corrected by the times of real requests.

A pass over some rows costs a fixed overhead, a part for each row, and a part for each pair of a row and a key (its
attention); KV that is put elsewhere costs a part for each token. A pass over rows scattered among cached ones costs
more than one behind them, and one whose attention is looked at more than that, so both are timed by themselves. That is
all a choice between strategies needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from nbkv.context import Context
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import watched
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.prompt import made_up_ids
from nbkv.strategy import Strategy
from nbkv.timing import settle, timed

_SHORT = 16  # rows of the shortest pass that is timed
_LONGEST = 2048  # and of the longest
_GROWTH = 4  # from one length to the next
_PATIENCE = 0.2  # seconds: behind a pass that took longer none of another length is timed
_REPEAT = 2  # the best of this many counts: a busy machine only ever adds time
_WEIGHT = 0.25  # of a request in the running correction
_FARTHEST = 3.0  # a correction is between a third and this


Costs = tuple[float, float, float]  # seconds of a pass, of each row, and of each pair of a row and a key


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds: ``overhead`` of a pass, per ``row``, per ``pair`` of a row and a key; per token to ``move`` or ``copy``.

    Moved are tokens of chunks, whose keys are rotated to other positions; copied are those of a prefix. ``scattered``
    are overhead, row and pair of a pass over rows that stand among cached ones, ``watched`` those of one that chooses
    rows by what it attends to (None: as any other pass).
    """

    overhead: float
    row: float
    pair: float
    move: float = 0.0
    copy: float = 0.0
    scattered: Costs | None = None
    watched: Costs | None = None

    def run(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of ``rows`` over ``keys`` tokens in all, themselves included."""
        return self.overhead + self.rows(rows, keys) if rows else 0.0

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

    def rows(self, rows: int, keys: int) -> float:
        """Return what ``rows`` more in a pass over ``keys`` tokens cost in seconds."""
        return rows * self.row + self.pair * _causal(rows, keys)


def _causal(rows: int, keys: int) -> float:
    """Return how many pairs of a row and a key there are where the last ``rows`` of ``keys`` tokens see all before."""
    return rows * (keys - rows / 2)


def _among(rows: int, keys: int) -> float:
    """Return the same for rows anywhere among the keys, which are counted as if they saw all of them."""
    return rows * keys


def costs(ctx: Context) -> CostModel:
    """Return the costs on ``ctx``'s model, measured now if they are not known; it takes a second or two then."""
    known = ctx.verdicts.get(_name(ctx))
    if known is None:
        known = asdict(measure(ctx.adapter))
        ctx.verdicts.put(_name(ctx), known)
    apart = {name: known[name] and tuple(known[name]) for name in ("scattered", "watched")}  # JSON has lists
    return CostModel(**(known | apart))


def are_known(ctx: Context) -> bool:
    """Return whether the costs on ``ctx``'s model have been measured."""
    return ctx.verdicts.get(_name(ctx)) is not None


def _name(ctx: Context) -> str:
    return f"costs of passes@{ctx.model}@{torch.get_num_threads()}"


def measure(adapter: ModelAdapter) -> CostModel:
    """Time passes of several lengths and relocations of K/V; needs a model that continues from our cache."""
    bench = _TimedPasses(adapter) if adapter.capabilities.per_token else _TimedWholePasses(adapter)
    timed_passes = bench.passes()
    overhead, row, pair = _fit(list(timed_passes), list(timed_passes.values()))
    tokens = max(keys for _, keys in timed_passes)
    move, copy = bench.moving(tokens), bench.copying(tokens)
    found = CostModel(overhead=overhead, row=row, pair=pair, move=move, copy=copy)
    if not move or adapter.walk is None:
        return found
    few, some, short = max(1, tokens // 32), max(2, tokens // 6), min(tokens, 4 * _SHORT)
    shapes = [(max(1, short // 4), short), (few, tokens), (some, tokens), (2 * some, tokens), (some, tokens // 2)]
    scattered = _fit(shapes, [bench.scattered(*shape) for shape in shapes], _among)
    if not adapter.capabilities.attention:
        return replace(found, scattered=scattered)
    return replace(
        found, scattered=scattered, watched=_fit(shapes, [bench.watched(*shape) for shape in shapes], _among)
    )


class _TimedPasses:
    """Passes over made-up tokens on a cache of their own."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter
        self._cache = adapter.growing()
        known = adapter.capabilities
        self._longest = max(2, min(_LONGEST, known.context - 1, known.stable_context))
        self._ids = adapter.tensor(made_up_ids(self._longest, adapter.config.vocab_size))

    def passes(self) -> dict[tuple[int, int], float]:
        """Return the seconds of passes by rows and keys: of growing lengths from nothing, and few behind the longest.

        What a long pass costs cannot be told from short ones: they grow until one has taken its time.
        """
        seconds = self._from_nothing()
        short, longest = min(seconds)[0], max(seconds)[0]
        return seconds | {(short, longest): self.forward(short, longest)}

    def _from_nothing(self) -> dict[tuple[int, int], float]:
        rows, seconds = max(1, min(_SHORT, self._longest // 2)), dict[tuple[int, int], float]()
        self.forward(rows, rows)  # the first pass of all also sets things up
        while rows <= self._longest:
            took = seconds[rows, rows] = self.forward(rows, rows)
            if rows == self._longest or (took > _PATIENCE and len(seconds) > 1):
                break
            rows = min(self._longest, _GROWTH * rows)
        return seconds

    def forward(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of the last ``rows`` of ``keys`` tokens."""
        if self._cache.length < keys - rows:
            self._pass(self._cache.length, keys - rows)

        def once() -> None:
            self._cache.truncate(keys - rows)
            self._pass(keys - rows, keys)

        return self._time(once)

    def scattered(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass over ``rows`` tokens among ``keys``, the others having K/V."""
        self._cache.truncate(keys)
        which = torch.linspace(0, keys - 1, rows, device=self._ids.device).round().long()
        return self._time(lambda: self._adapter.recompute(self._ids[which], which, self._cache))

    def watched(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass over the last ``rows`` of ``keys`` tokens, in which attention is looked at."""
        self._cache.truncate(keys)
        which = torch.arange(keys - rows, keys, device=self._ids.device)

        def once() -> None:
            with watched(self._adapter.config, torch.arange(rows), _look):
                self._adapter.recompute(self._ids[which], which, self._cache)

        return self._time(once)

    def moving(self, tokens: int) -> float:
        """Return the seconds per token of rotating keys to other positions and writing the K/V to another cache."""
        rope, old = self._adapter.rope, torch.arange(tokens)
        if rope is None:
            return 0.0
        return self._time(lambda: self._write(tokens, lambda kv: rope.move(kv, old, old + 1))) / tokens

    def copying(self, tokens: int) -> float:
        """Return the seconds per token of writing K/V to another cache."""
        return self._time(lambda: self._write(tokens, lambda kv: kv)) / tokens

    def _write(self, tokens: int, change: Callable[..., object]) -> None:
        GrowingCache(tokens).write(0, change(self._cache.read(0, tokens)))  # type: ignore[arg-type]

    def _pass(self, start: int, stop: int) -> None:
        self._adapter.forward(self._ids[start:stop], self._cache, start=start)

    def _time(self, work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(_REPEAT):
            settle(self._adapter)
            clock = timed()
            work()
            settle(self._adapter)
            seconds.append(clock())
        return min(seconds)


class _TimedWholePasses(_TimedPasses):
    """Passes of a model whose states no token can be cut off again: each begins from nothing, and KV are not moved."""

    def passes(self) -> dict[tuple[int, int], float]:
        """Return the seconds of passes of growing lengths from nothing."""
        return self._from_nothing()

    def forward(self, rows: int, keys: int) -> float:  # noqa: ARG002  (as many as rows)
        """Return the seconds of a pass over ``rows`` tokens."""

        def once() -> None:
            self._cache = self._adapter.growing()
            self._pass(0, rows)

        return self._time(once)

    def moving(self, tokens: int) -> float:  # noqa: ARG002
        """Return 0: nothing is rotated."""
        return 0.0

    def copying(self, tokens: int) -> float:  # noqa: ARG002
        """Return 0: a prefix is continued in place."""
        return 0.0


def _look(seen: Attended) -> None:
    """Do what a choice of rows does with a layer: sum up what each key received, and how much its value is."""
    seen.weights.sum(dim=(0, 1)).add_(seen.values.to(torch.float32).norm(dim=-1).sum(dim=0))


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


def pace(ctx: Context, strategy: Strategy) -> float:
    """Return how many times longer than expected requests served by ``strategy`` have taken, on average.

    Exact strategies share one figure: what they run is of one kind, and its cost was measured.
    """
    return float(ctx.verdicts.get(_pace(ctx, strategy)) or 1.0)


def learn_pace(ctx: Context, strategy: Strategy, expected: float, took: float) -> None:
    """Let a request that ``took`` seconds instead of ``expected`` (uncorrected) count in ``pace``, bounded."""
    if expected > 0:
        seen = min(_FARTHEST, max(1 / _FARTHEST, took / expected))
        known = pace(ctx, strategy)
        ctx.verdicts.hold(_pace(ctx, strategy), known + _WEIGHT * (seen - known))


def _pace(ctx: Context, strategy: Strategy) -> str:
    return f"pace@{'exact' if strategy.exact else strategy.spec}@{ctx.model}"
