"""What passes and relocations of K/V take on a model, timed in rounds so that one busy moment cannot spoil a figure."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import watched
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.prompt import made_up_ids
from nbkv.timing import settle, timed

Shape = tuple[str, int, int]  # what is timed, its rows, and the keys in all

_SHORT = 16  # rows of the shortest pass that is timed
_LONGEST = 2048  # and of the longest
_GROWTH = 4  # from one length to the next
_PATIENCE = 0.2  # seconds: behind a pass that took longer none of another length is timed
_ROUNDS = 3  # each figure is the best of them: a busy machine only ever adds time, and seldom to all three


def best_times(adapter: ModelAdapter) -> dict[Shape, float]:
    """Return the seconds of each of ``TimedPasses.every``; needs a model that continues from our cache."""
    bench = TimedPasses(adapter) if adapter.capabilities.per_token else TimedWholePasses(adapter)
    rounds = [bench.every() for _ in range(_ROUNDS)]
    return {what: min(each[what] for each in rounds) for what in rounds[0]}


class TimedPasses:
    """Passes over made-up tokens on a cache of their own."""

    _lengths: tuple[int, ...] = ()  # of passes from nothing, once a round has found them

    def __init__(self, adapter: ModelAdapter) -> None:
        """Make tokens."""
        self._adapter = adapter
        self._cache = adapter.growing()
        known = adapter.capabilities
        self._longest = max(2, min(_LONGEST, known.context - 1, known.stable_context))
        self._ids = adapter.tensor(made_up_ids(self._longest, adapter.config.vocab_size))

    def every(self) -> dict[Shape, float]:
        """Return the seconds of each ``pass``, per token that is to ``move`` or ``copy``, and of passes apart.

        These are over rows that are ``scattered`` among cached ones, and with attention that is ``watched``; only where
        chunks can be placed at all. One round: all are timed once, one after another.
        """
        seconds = {("pass", *shape): took for shape, took in self.passes().items()}
        tokens = max(keys for _, _, keys in seconds)
        seconds["move", tokens, tokens], seconds["copy", tokens, tokens] = self.moving(tokens), self.copying(tokens)
        if not seconds["move", tokens, tokens] or self._adapter.walk is None:
            return seconds
        few, some, short = max(1, tokens // 32), max(2, tokens // 6), min(tokens, 4 * _SHORT)
        shapes = [(max(1, short // 4), short), (few, tokens), (some, tokens), (2 * some, tokens), (some, tokens // 2)]
        seconds |= {("scattered", *shape): self.scattered(*shape) for shape in shapes}
        if self._adapter.capabilities.attention:
            seconds |= {("watched", *shape): self.watched(*shape) for shape in shapes}
        return seconds

    def passes(self) -> dict[tuple[int, int], float]:
        """Return the seconds of passes by rows and keys: of growing lengths from nothing, and few behind the longest.

        What a long pass costs cannot be told from short ones: they grow until one has taken its time.
        """
        seconds = self._from_nothing()
        short, longest = min(seconds)[0], max(seconds)[0]
        return seconds | {(short, longest): self.forward(short, longest)}

    def _from_nothing(self) -> dict[tuple[int, int], float]:
        rows, seconds = max(1, min(_SHORT, self._longest // 2)), dict[tuple[int, int], float]()
        if self._lengths:
            return {(length, length): self.forward(length, length) for length in self._lengths}
        self.forward(rows, rows)  # the first pass of all also sets things up
        while rows <= self._longest:
            took = seconds[rows, rows] = self.forward(rows, rows)
            if rows == self._longest or (took > _PATIENCE and len(seconds) > 1 and self._is_long(rows)):
                break
            rows = min(self._longest, _GROWTH * rows)
        self._lengths = tuple(length for length, _ in seconds)
        return seconds

    def _is_long(self, rows: int) -> bool:
        """Return whether so many rows take their time also when they run again."""
        return self.forward(rows, rows) > _PATIENCE

    def forward(self, rows: int, keys: int) -> float:
        """Return the seconds of a pass of the last ``rows`` of ``keys`` tokens."""
        if self._cache.length < keys - rows:
            self._pass(self._cache.length, keys - rows)
        self._cache.truncate(keys - rows)
        return self._time(lambda: self._pass(keys - rows, keys))

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
        settle(self._adapter)
        clock = timed()
        work()
        settle(self._adapter)
        return clock()


class TimedWholePasses(TimedPasses):
    """Passes of a model whose states no token can be cut off again: each begins from nothing, and KV are not moved."""

    def passes(self) -> dict[tuple[int, int], float]:
        """Return the seconds of passes of growing lengths from nothing."""
        return self._from_nothing()

    def forward(self, rows: int, keys: int) -> float:  # noqa: ARG002  (as many as rows)
        """Return the seconds of a pass over ``rows`` tokens."""
        self._cache = self._adapter.growing()
        return self._time(lambda: self._pass(0, rows))

    def moving(self, tokens: int) -> float:  # noqa: ARG002
        """Return 0: nothing is rotated."""
        return 0.0

    def copying(self, tokens: int) -> float:  # noqa: ARG002
        """Return 0: a prefix is continued in place."""
        return 0.0


def _look(seen: Attended) -> None:
    """Do what a choice of rows does with a layer: sum up what each key received, and how much its value is."""
    seen.weights.sum(dim=(0, 1)).add_(seen.values.to(torch.float32).norm(dim=-1).sum(dim=0))
