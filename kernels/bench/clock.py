"""Times several functions in turns, so that a change of clock or load meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

_WARM, _ROUNDS = 2, 7
_FLUSH = 1 << 28  # bytes written between runs on a GPU: more than its second-level cache holds


def seconds(runs: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Return the median seconds of each of ``runs``, called one after another in each of seven rounds."""
    for _ in range(_WARM):
        for run in runs.values():
            run()
    once = _on_gpu if device.type == "cuda" else _on_cpu
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            times[name].append(once(run, device))
    return {name: median(each) for name, each in times.items()}


def _on_cpu(run: Callable[[], object], _: torch.device) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_gpu(run: Callable[[], object], device: torch.device) -> float:
    torch.empty(_FLUSH, dtype=torch.int8, device=device).zero_()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3
