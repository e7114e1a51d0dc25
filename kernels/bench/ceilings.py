"""What this device can do at most, measured in the same run: bytes copied, multiplied and attended a second."""

from __future__ import annotations

import torch
from clock import seconds


def ceilings(device: torch.device, dtype: torch.dtype, scale: int) -> dict[str, float]:
    """Return ``copy_gbs`` (read plus write), ``gemm_tflops``, ``sdpa_tflops`` (causal); ``scale`` is a divisor."""
    return {
        "copy_gbs": _copy(device, dtype, (1 << 29) // scale),
        "gemm_tflops": _gemm(device, dtype, max(64, 8192 // scale)),
        "sdpa_tflops": _sdpa(device, dtype, max(64, 8192 // scale)),
    }


def _copy(device: torch.device, dtype: torch.dtype, n: int) -> float:
    source, target = (torch.empty(n, dtype=dtype, device=device) for _ in range(2))
    return 2 * n * source.element_size() / seconds({"copy": lambda: target.copy_(source)}, device)["copy"] / 1e9


def _gemm(device: torch.device, dtype: torch.dtype, n: int) -> float:
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds({"gemm": lambda: a @ b}, device)["gemm"] / 1e12


def _sdpa(device: torch.device, dtype: torch.dtype, n: int) -> float:
    q, k, v = (torch.randn(1, 32, n, 128, device=device).to(dtype) for _ in range(3))
    flops = 4 * 32 * 128 * n * (n + 1) / 2
    attend = torch.nn.functional.scaled_dot_product_attention
    return flops / seconds({"sdpa": lambda: attend(q, k, v, is_causal=True)}, device)["sdpa"] / 1e12
