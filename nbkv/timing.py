"""Clocks that tell the truth, also of a device that works on its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nbkv.models.adapter import ModelAdapter


def timed() -> Callable[[], float]:
    """Return a function that gives the seconds since this call."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start


def settle(adapter: ModelAdapter) -> None:
    """Wait until the device has done what it was asked for, so that a clock tells the truth."""
    if adapter.device.type != "cpu":
        torch.accelerator.synchronize(adapter.device)
