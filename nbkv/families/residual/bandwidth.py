"""Bandwidths of memory, host link and disk, and the rate of a GEMM, on the model's device at its hidden size."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nbkv.families.residual.forms import hidden_size
from nbkv.models.adapter import ModelAdapter
from nbkv.timing import settle, timed

_BYTES = 1 << 25  # copied at a time
_ON_DISK = 1 << 24
_REPEAT = 3


@dataclass(frozen=True, kw_only=True)
class Bandwidths:
    """Bytes per second: within the device's memory, from the host to it, from disk; operations per second of a GEMM.

    From disk without the system's cache where it can be told to drop it. The GEMM is that of ``rows`` layer inputs
    with a square matrix.
    """

    memory: float
    host: float
    disk: float
    gemm: float
    rows: int


def rates(adapter: ModelAdapter, rows: int) -> Bandwidths:
    """Measure; it takes well below a second."""
    width = hidden_size(adapter)
    source = torch.zeros(_BYTES, dtype=torch.uint8, device=adapter.device)
    host = torch.zeros(_BYTES, dtype=torch.uint8, pin_memory=adapter.device.type == "cuda")
    target = torch.empty_like(source)
    left = torch.randn(rows, width, device=adapter.device, dtype=adapter.dtype)
    right = torch.randn(width, width, device=adapter.device, dtype=adapter.dtype)
    return Bandwidths(
        memory=_BYTES / _best(adapter, lambda: target.copy_(source)),
        host=_BYTES / _best(adapter, lambda: target.copy_(host)),
        disk=_ON_DISK / _disk(),
        gemm=2 * rows * width * width / _best(adapter, lambda: left @ right),
        rows=rows,
    )


def _best(adapter: ModelAdapter, work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_REPEAT):
        settle(adapter)
        clock = timed()
        work()
        settle(adapter)
        seconds.append(clock())
    return min(seconds)


def _disk() -> float:
    """Return the seconds to read a file of the temporary folder."""
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(_ON_DISK))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        clock = timed()
        file.read()
        return clock()
