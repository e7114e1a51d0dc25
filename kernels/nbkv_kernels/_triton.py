"""Triton where it is installed; without it the modules still import and their torch references work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
except ModuleNotFoundError:  # a CPU-only installation
    triton = None
    tl = None

    def jit(function: Any) -> Any:  # noqa: ANN401
        """Return ``function`` as it is; it is never launched."""
        return function


__all__ = ["INTERPRETED", "jit", "power_of_two", "runs_on", "tl", "triton", "tuned"]

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether kernels run in Triton's interpreter, on the CPU; Triton reads the variable when a kernel is defined."""


def runs_on(tensor: torch.Tensor) -> bool:
    """Return whether Triton kernels can be launched on ``tensor``."""
    return triton is not None and (tensor.is_cuda or INTERPRETED)


def tuned(choices: list[dict[str, int]], key: list[str]) -> Callable[[Any], Any]:
    """Return a decorator that lets Triton pick among ``choices`` for each value of ``key``.

    A choice names the kernel's block sizes, ``num_warps`` and ``num_stages``. The interpreter takes the first one.
    """
    if triton is None:
        return lambda function: function
    if INTERPRETED:
        choices = choices[:1]
    launch = ("num_warps", "num_stages")
    configs = [
        triton.Config(
            {name: value for name, value in choice.items() if name not in launch},
            **{name: value for name, value in choice.items() if name in launch},
        )
        for choice in choices
    ]
    decorator: Callable[[Any], Any] = triton.autotune(configs=configs, key=key)
    return decorator


def power_of_two(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least ``n`` and ``least``."""
    return 1 << max(0, max(n, least) - 1).bit_length()
