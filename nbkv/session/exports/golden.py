"""Golden rows: a few rows of a sequence that are run again over imported KV, and how far they may be off.

Three things are looked at, by name. ``head``: the first tokens, run from nothing, must have the K/V that were stored.
``rows``: single rows further on, run over the stored K/V before them, must have the K/V that were stored for them.
``logits``: the logits behind these rows must be those that the exporting model had. In float32 the bound is the
house's rule of exactness; in half precision it is what this very model differs by from itself where rows run singly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache

EXACT = 1e-4  # relative, of K/V; of logits scaled by max(1, max|logit|)
_HEAD = 64  # tokens that are run from nothing
_ROWS = 4  # single rows, besides those of the head
_NOISES = 2.0  # half precision may be off by so many times what it is off from itself


@dataclass(frozen=True, eq=False)
class GoldenRows:
    """What the exporting model computed: ``logits`` float32 ``[k, V]`` behind the rows that begin at ``positions``."""

    positions: tuple[int, ...]
    logits: torch.Tensor


@dataclass(frozen=True)
class GoldenFinding:
    """One look at imported KV: ``error`` against ``bound``, over ``rows`` rows that were run."""

    name: str
    error: float
    bound: float
    rows: int

    @property
    def ok(self) -> bool:
        """Return whether it is within the bound; what is not a number is not."""
        return self.error <= self.bound


@dataclass(frozen=True)
class _Noise:
    """The bounds on this model: relative for K/V, absolute for logits."""

    kv: float
    logits: float


def golden_rows(adapter: ModelAdapter, ids: Sequence[int], kv: KV) -> GoldenRows:
    """Return the golden rows of ``ids``, whose K/V are ``kv``, as ``adapter``'s model has them now."""
    positions = _positions(adapter, kv.length)
    logits = [logits for _, logits in _rows(adapter, ids, kv, positions)]
    return GoldenRows(positions, torch.stack(logits) if logits else torch.empty(0, 0))


def check(adapter: ModelAdapter, ids: Sequence[int], kv: KV, golden: GoldenRows) -> list[GoldenFinding]:
    """Return how far imported ``kv`` of ``ids``, in this model's dtype, are from what its own passes give."""
    head = min(adapter.capabilities.whole(_HEAD), kv.length)
    own, logits = _own(adapter, ids, head)
    noise = _noise(adapter, ids, own, logits)
    ran = list(_rows(adapter, ids, kv, golden.positions))
    unit = _unit(adapter)
    rows = [distance(got, kv[at : at + unit]) for at, (got, _) in zip(golden.positions, ran, strict=True)]
    found = [GoldenFinding("head", distance(own, kv[:head]), noise.kv, head)]
    found.append(GoldenFinding("rows", max(rows, default=0.0), noise.kv, len(rows) * unit))
    if ran and golden.logits.shape != (len(ran), ran[0][1].numel()):
        return [*found, GoldenFinding("logits", float("inf"), noise.logits, len(rows) * unit)]
    off = [float((got - want).abs().max()) for (_, got), want in zip(ran, golden.logits, strict=True)]
    return [*found, GoldenFinding("logits", _worst(off), noise.logits, len(rows) * unit)]


def distance(got: KV, want: KV) -> float:
    """Return the largest relative error over layers of keys, and of values, that ``got`` has as to ``want``."""
    errors = []
    for ours, theirs in zip((*got.keys, *got.values), (*want.keys, *want.values), strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        if ours.numel():
            a, b = ours.float().cpu(), theirs.float().cpu()
            errors.append(float((a - b).norm() / b.norm().clamp(min=1e-9)))
    return _worst(errors)


def placed(kv: KV, adapter: ModelAdapter) -> KV:
    """Return ``kv`` in the dtype of ``adapter``'s model, each layer where that layer runs."""
    devices = adapter.devices
    where = [devices[min(layer, len(devices) - 1)] for layer in range(len(kv.keys))]

    def put(sides: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(side.to(device=at, dtype=adapter.dtype) for side, at in zip(sides, where, strict=True))

    return KV(put(kv.keys), put(kv.values))


def _own(adapter: ModelAdapter, ids: Sequence[int], stop: int) -> tuple[KV, torch.Tensor]:
    """Return K/V of ``ids[:stop]`` and the logits ``[stop, V]`` behind each by one pass from nothing."""
    cache = adapter.growing()
    logits = adapter.forward(adapter.tensor(ids[:stop]), cache, start=0, keep=stop)
    return cache.read(0, stop), logits.float().cpu()


def _noise(adapter: ModelAdapter, ids: Sequence[int], own: KV, logits: torch.Tensor) -> _Noise:
    """Return how far rows run singly over this model's own K/V ``own`` are from the pass that made these."""
    scale = max(1.0, float(logits.abs().max()))
    if adapter.dtype.itemsize >= torch.float32.itemsize:
        return _Noise(EXACT, EXACT * scale)
    positions, unit, eps = _positions(adapter, own.length), _unit(adapter), torch.finfo(adapter.dtype).eps
    ran = list(zip(positions, _rows(adapter, ids, own, positions), strict=True))
    kv = _worst([distance(got, own[at : at + unit]) for at, (got, _) in ran])
    off = _worst([float((each - logits[at + unit - 1]).abs().max()) for at, (_, each) in ran])
    return _Noise(max(eps, _NOISES * kv), max(eps * scale, _NOISES * off))


def _rows(adapter: ModelAdapter, ids: Sequence[int], kv: KV, positions: Sequence[int]) -> list[tuple[KV, torch.Tensor]]:
    """Return K/V and the last logits of the rows that begin at ``positions``, each run over the K/V before it."""
    cache, unit, found = GrowingCache(kv.length), _unit(adapter), []
    cache.write(0, kv)
    for at in sorted(positions, reverse=True):  # from the back, so that the cache need only be cut
        cache.truncate(at)
        logits = adapter.forward(adapter.tensor(ids[at : at + unit]), cache, start=at)[-1]
        found.append((cache.read(at, at + unit).compact(), logits.float().cpu()))
    return found[::-1]


def _positions(adapter: ModelAdapter, length: int) -> tuple[int, ...]:
    """Return where golden rows begin in a sequence of ``length`` tokens: evenly, the last one at its end."""
    unit = _unit(adapter)
    last = length // unit - 1
    picked = {last - last * step // _ROWS for step in range(_ROWS)} if last > 0 else set()
    return tuple(unit * at for at in sorted(picked) if at > 0)


def _unit(adapter: ModelAdapter) -> int:
    """Return how many rows run together."""
    return adapter.capabilities.block or 1


def _worst(errors: Sequence[float]) -> float:
    """Return the largest error; what is not a number is larger than any."""
    return max((error if error == error else float("inf") for error in errors), default=0.0)  # noqa: PLR0124  (nan)
