"""From the residual stream to K/V in place: norm, projections, key norm, rotary embedding and the write, in one pass.

RMSNorm scales each row by one number, which commutes with the projection: ``rms(x) w W = (x w) W / sqrt(mean x^2 +
eps)``. So the sum of squares is gathered while the product runs, and the row is scaled at the end: the step by which
KV-Direct (arXiv 2603.19664) and HCache (arXiv 2410.05004) restore a layer's K/V from its input. A head's two rotary
halves are two accumulators, so the turn needs no shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nbkv_kernels._triton import INTERPRETED, jit, power_of_two, tl, triton, tuned
from nbkv_kernels.rotate_gather import turned

_FEW = 64  # rows: other block sizes are best for them than for many


@dataclass(frozen=True, eq=False)
class Projection:
    """The weights of one layer between its input and its K/V.

    ``norm`` ``[d]`` and ``eps`` are the input RMSNorm's; ``k`` and ``v`` ``[H D, d]`` the projections, with their
    biases or None; ``k_norm`` ``[D]`` the RMSNorm over each key head, or None. Both norms have the same ``eps``, and
    multiply by ``offset`` plus their weight (Gemma counts weights from 1).
    """

    norm: torch.Tensor
    eps: float
    k: torch.Tensor
    v: torch.Tensor
    k_bias: torch.Tensor | None = None
    v_bias: torch.Tensor | None = None
    k_norm: torch.Tensor | None = None
    offset: float = 0.0


def project_kv(
    hidden: torch.Tensor,
    weights: Projection,
    turn: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None = None,
    *,
    fused: bool = False,
) -> None:
    """Write K and V of ``hidden`` ``[R, d]`` to ``rows`` ``[R]`` of ``target`` ``[H, T, D]``, None: the first R.

    ``turn`` is cosine and sine ``[R, D / 2]`` of the rows' positions, pairs ``i`` with ``i + D / 2``. Each row may be
    named once. ``fused`` launches the Triton kernel. Raises ``ValueError`` for shapes that do not fit.
    """
    heads, _, width = target[0].shape
    if weights.k.shape != (heads * width, hidden.shape[1]) or weights.v.shape != weights.k.shape:
        message = (
            f"projections {tuple(weights.k.shape)}, {tuple(weights.v.shape)} do not fit hidden {tuple(hidden.shape)} "
            f"and {heads} heads of {width}: [H D, d]"
        )
        raise ValueError(message)
    n = len(hidden)
    named = n <= target[0].shape[1] if rows is None else len(rows) == n
    if target[1].shape != target[0].shape or not named or any(part.shape != (n, width // 2) for part in turn):
        message = (
            f"{n} rows, to {'the first' if rows is None else len(rows)}, angles {tuple(turn[0].shape)} and "
            f"target {tuple(target[1].shape)} do not fit: [R, D / 2], [H, T, D]"
        )
        raise ValueError(message)
    if n:
        (_launch if fused else _reference)(hidden, weights, turn, target, rows)


def _reference(
    hidden: torch.Tensor,
    weights: Projection,
    turn: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
) -> None:
    heads, _, width = target[0].shape
    normed = _rms(hidden, weights.norm, weights)
    keys = torch.nn.functional.linear(normed, weights.k, weights.k_bias).view(-1, heads, width)
    values = torch.nn.functional.linear(normed, weights.v, weights.v_bias).view(-1, heads, width)
    if weights.k_norm is not None:
        keys = _rms(keys, weights.k_norm, weights)
    for made, into in zip((turned(keys.transpose(0, 1), *turn), values.transpose(0, 1)), target, strict=True):
        if rows is None:
            into[:, : len(hidden)] = made
        else:
            into.index_copy_(1, rows, made.to(into.dtype))


def _rms(x: torch.Tensor, weight: torch.Tensor, weights: Projection) -> torch.Tensor:
    wide = x.to(torch.float32)
    scale = (wide.square().mean(dim=-1, keepdim=True) + weights.eps).rsqrt()
    return (wide * scale * (weight.to(torch.float32) + weights.offset)).to(x.dtype)


def _launch(
    hidden: torch.Tensor,
    weights: Projection,
    turn: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    rows: torch.Tensor | None,
) -> None:
    heads, _, width = target[0].shape
    n, hidden_width = hidden.shape
    nothing = hidden.new_empty(0)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(n, meta["ROWS"]), heads

    with torch.cuda.device_of(hidden):
        for side, (matrix, bias) in enumerate(((weights.k, weights.k_bias), (weights.v, weights.v_bias))):
            keyed = side == 0
            k_norm = weights.k_norm if keyed else None
            _kernel[grid](
                *(hidden, weights.norm, matrix, *(nothing if part is None else part for part in (bias, k_norm))),
                *(*turn, target[side], nothing if rows is None else rows),
                *(n, hidden_width, width // 2, weights.eps, weights.offset),
                *(*hidden.stride(), *matrix.stride(), *turn[0].stride(), *turn[1].stride(), *target[side].stride()),
                *(bias is not None, k_norm is not None, keyed, rows is not None),
                *(n <= _FEW, INTERPRETED, power_of_two(width // 2, 16)),
            )


@tuned(
    [
        {"ROWS": 32, "INNER": 32, "num_warps": 4, "num_stages": 2},
        {"ROWS": 64, "INNER": 64, "num_warps": 4, "num_stages": 3},
        {"ROWS": 128, "INNER": 64, "num_warps": 8, "num_stages": 3},
    ],
    key=["hidden_width", "half", "FEW"],
)
@jit
def _kernel(
    hidden, norm, matrix, bias, key_norm, cos, sin, target, rows, n, hidden_width, half, eps, offset,
    hidden_row, hidden_dim, matrix_out, matrix_in, cos_row, cos_dim, sin_row, sin_dim,
    target_head, target_row, target_dim,
    BIAS: tl.constexpr, NORMED: tl.constexpr, TURNED: tl.constexpr, NAMED: tl.constexpr,
    FEW: tl.constexpr, WIDE: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = at < n
    dim = tl.arange(0, HALF)
    there = dim < half
    squares = tl.zeros([ROWS], tl.float32)
    first, second = tl.zeros([ROWS, HALF], tl.float32), tl.zeros([ROWS, HALF], tl.float32)
    out_first = head * 2 * half + dim
    for start in range(0, hidden_width, INNER):
        inner = start + tl.arange(0, INNER)
        known = inner < hidden_width
        x = tl.load(
            hidden + at.to(tl.int64)[:, None] * hidden_row + inner[None, :] * hidden_dim,
            mask=inside[:, None] & known[None, :], other=0.0,
        )  # fmt: skip
        wide = x.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
        factor = tl.load(norm + inner, mask=known, other=0.0).to(tl.float32) + offset
        scaled = (wide * factor[None, :]).to(x.dtype)
        both = known[:, None] & there[None, :]
        from_first = matrix + out_first[None, :] * matrix_out + inner[:, None] * matrix_in
        left = tl.load(from_first, mask=both, other=0.0)
        right = tl.load(from_first + half * matrix_out, mask=both, other=0.0)
        if WIDE:  # the interpreter multiplies bfloat16 by its bits
            scaled, left, right = scaled.to(tl.float32), left.to(tl.float32), right.to(tl.float32)
        first += tl.dot(scaled, left, input_precision="ieee")
        second += tl.dot(scaled, right, input_precision="ieee")
    scale = 1.0 / tl.sqrt(squares / hidden_width + eps)
    first, second = first * scale[:, None], second * scale[:, None]
    if BIAS:
        first += tl.load(bias + out_first, mask=there, other=0.0).to(tl.float32)[None, :]
        second += tl.load(bias + out_first + half, mask=there, other=0.0).to(tl.float32)[None, :]
    if NORMED:
        mean = (tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)) / (2 * half)
        again = 1.0 / tl.sqrt(mean + eps)
        low = tl.load(key_norm + dim, mask=there, other=0.0).to(tl.float32) + offset
        high = tl.load(key_norm + half + dim, mask=there, other=0.0).to(tl.float32) + offset
        first, second = first * again[:, None] * low[None, :], second * again[:, None] * high[None, :]
    both = inside[:, None] & there[None, :]
    if TURNED:
        which = at.to(tl.int64)[:, None]
        c = tl.load(cos + which * cos_row + dim[None, :] * cos_dim, mask=both, other=1.0).to(tl.float32)
        s = tl.load(sin + which * sin_row + dim[None, :] * sin_dim, mask=both, other=0.0).to(tl.float32)
        first, second = first * c - second * s, second * c + first * s
    row = at.to(tl.int64)
    if NAMED:
        row = tl.load(rows + at, mask=inside, other=0).to(tl.int64)
    place = target + head * target_head + row[:, None] * target_row + dim[None, :] * target_dim
    tl.store(place, first.to(target.dtype.element_ty), mask=both)
    tl.store(place + half * target_dim, second.to(target.dtype.element_ty), mask=both)
