"""The kernels at work: what each one runs on, what it is held against, and how many bytes and FLOPs it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from nbkv_kernels import (
    Projection,
    kv_deviation,
    merge_states,
    project_kv,
    rotate_gather,
    row_attention,
    shared_prefix_attention,
)
from torch.nn.functional import linear, scaled_dot_product_attention

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel on one input.

    ``ours(fused)`` runs it and returns what it gave, by Triton or by the reference; ``baselines`` are other ways to the
    same; ``work`` is in bytes for the ceiling ``copy_gbs``, else in FLOPs. ``share`` of the ceiling is the target, and
    ``times`` how much faster than each baseline named there.
    """

    kernel: str
    regime: str
    ours: Callable[[bool], Tensors]
    baselines: dict[str, Callable[[], object]]
    ceiling: str
    work: float
    share: float
    times: dict[str, float]


def cases(device: torch.device, dtype: torch.dtype, scale: int) -> list[Case]:
    """Return every case; ``scale`` divides lengths and widths, 1 is for a large GPU."""
    make = _Maker(device, dtype, scale)
    return [one(make) for one in (_gather, _rows, _shared, _merge, _deviation, _project)]


@dataclass(frozen=True)
class _Maker:
    device: torch.device
    dtype: torch.dtype
    scale: int

    def size(self, n: int, least: int = 16) -> int:
        return max(least, n // self.scale)

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    def places(self, n: int, total: int) -> torch.Tensor:
        return torch.randperm(total, device=self.device)[:n].sort().values

    def bytes(self, *tensors: torch.Tensor) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gather(make: _Maker) -> Case:
    heads, n, width = 8, make.size(65536), 128
    source = make.draw(heads, n, width), make.draw(heads, n, width)
    target = tuple(torch.zeros(heads, 2 * n, width, dtype=make.dtype, device=make.device) for _ in "kv")
    rows, angle = torch.arange(n, device=make.device) + n // 2, torch.rand(n, width // 2, device=make.device)
    turn = angle.cos(), angle.sin()

    def ours(fused: bool) -> Tensors:  # noqa: FBT001
        rotate_gather(source, (target[0], target[1]), turn, rows, fused=fused)
        return target

    run = {"turn, then copy": lambda: rotate_gather(source, (target[0], target[1]), turn, rows)}
    work = 2 * make.bytes(*source) + make.bytes(*turn)
    return Case("rotate_gather", f"{heads} heads x {n} x {width}", ours, run, "copy_gbs", work, 0.85, {})


def _rows(make: _Maker) -> Case:
    heads, kv_heads, n, length, width = 32, 8, make.size(2048), make.size(16384), 128
    q, k, v = (
        make.draw(1, heads, n, width),
        make.draw(1, kv_heads, length, width),
        make.draw(1, kv_heads, length, width),
    )
    upper = make.places(n, length) + 1
    mask = torch.arange(length, device=make.device) < upper[:, None]
    attend = scaled_dot_product_attention
    run = {"SDPA, dense mask": lambda: attend(q, k, v, attn_mask=mask, enable_gqa=True)}
    work = 4.0 * float(upper.sum()) * heads * width
    regime = f"{n} of {length} rows, {heads}/{kv_heads} heads of {width}"
    ours = lambda fused: row_attention(q, k, v, upper, fused=fused)  # noqa: E731
    return Case("row_attention", regime, ours, run, "sdpa_tflops", work, 0.6, {"SDPA, dense mask": 3.0})


def _shared(make: _Maker) -> Case:
    batch, heads, kv_heads, length, width = make.size(32, 2), 32, 8, make.size(4096), 128
    q, own = make.draw(batch, heads, 1, width), make.draw(batch, kv_heads, 16, width)
    prefix = make.draw(kv_heads, length, width), make.draw(kv_heads, length, width)
    upper = torch.full((batch, 1), 16, device=make.device)
    k, v = (torch.cat([side.expand(batch, -1, -1, -1), own], dim=2) for side in prefix)
    attend = scaled_dot_product_attention
    run = {"SDPA, prefix repeated": lambda: attend(q, k, v, enable_gqa=True)}
    regime = f"{batch} branches over {length}, {heads}/{kv_heads} heads of {width}"
    ours = lambda fused: shared_prefix_attention(q, [prefix], (own, own), upper, fused=fused)  # noqa: E731
    work = make.bytes(*prefix, own, own, q, q)
    return Case("shared_prefix_attention", regime, ours, run, "copy_gbs", work, 0.7, {"SDPA, prefix repeated": 3.0})


def _merge(make: _Maker) -> Case:
    parts, rows, width = 4, make.size(262144), 128
    outs, lses = make.draw(parts, rows, width), torch.randn(parts, rows, device=make.device)
    run = {"torch": lambda: merge_states(outs, lses)}
    work = make.bytes(outs, lses) * (1 + 1 / parts)
    ours = lambda fused: merge_states(outs, lses, fused=fused)  # noqa: E731
    return Case("merge_states", f"{parts} parts x {rows} x {width}", ours, run, "copy_gbs", work, 0.8, {})


def _deviation(make: _Maker) -> Case:
    heads, n, width = 8, make.size(65536), 128
    cached = make.draw(heads, 2 * n, width), make.draw(heads, 2 * n, width)
    fresh, rows = (make.draw(heads, n, width), make.draw(heads, n, width)), make.places(n, 2 * n)
    run = {"torch": lambda: kv_deviation(cached, fresh, rows)}
    ours = lambda fused: (kv_deviation(cached, fresh, rows, fused=fused),)  # noqa: E731
    work = 2 * make.bytes(*fresh)
    return Case("kv_deviation", f"{heads} heads x {n} of {2 * n} x {width}", ours, run, "copy_gbs", work, 0.8, {})


def _project(make: _Maker) -> Case:
    heads, n, width, hidden = 8, make.size(8192), 128, make.size(4096)
    x, shape = make.draw(n, hidden), (heads * width, hidden)
    weights = Projection(make.draw(hidden), 1e-6, make.draw(*shape) * hidden**-0.5, make.draw(*shape) * hidden**-0.5)
    target = tuple(torch.empty(heads, n, width, dtype=make.dtype, device=make.device) for _ in "kv")
    rows, angle = torch.arange(n, device=make.device), torch.rand(n, width // 2, device=make.device)
    turn, both = (angle.cos(), angle.sin()), torch.cat([weights.k, weights.v])

    def ours(fused: bool) -> Tensors:  # noqa: FBT001
        project_kv(x, weights, turn, (target[0], target[1]), rows, fused=fused)
        return target

    run = {"the product alone": lambda: linear(x, both)}
    regime = f"{n} rows, {hidden} to 2 x {heads} x {width}"
    work = 4.0 * n * hidden * heads * width
    return Case("project_kv", regime, ours, run, "gemm_tflops", work, 0.0, {"the product alone": 0.8})
