"""Copy K/V of some tokens into place, and turn the keys to their new positions on the way.

Re-rotation of rotary keys (RoPE, arXiv 2104.09864): per pair ``(a, b)`` of dimensions and per token,
``(a cos - b sin, b cos + a sin)`` with the angles of the position offset. Values and the other dimensions are copied.
"""

from __future__ import annotations

import torch

from nbkv_kernels._triton import jit, power_of_two, tl, triton

_ROWS = 16


def rotate_gather(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    turn: tuple[torch.Tensor, torch.Tensor] | None,
    rows: torch.Tensor | None = None,
    *,
    start: int = 0,
    neighbours: bool = False,
    fused: bool = False,
) -> None:
    """Write K and V ``source`` ``[H, n, D]`` to ``rows`` ``[n]`` of ``target`` ``[H, T, D]``, None: the first n.

    ``turn`` is cosine and sine, float32 ``[n, width / 2]`` (None: keys are only copied); the rotary dimensions are
    ``[start, start + width)``, paired ``i`` with ``i + width / 2``, or with ``i + 1`` for ``neighbours``. Each row of
    the target may be named once. ``fused`` launches the Triton kernel. Raises ``ValueError`` if shapes do not fit.
    """
    n = source[0].shape[1]
    for name, one, other in zip(("keys", "values"), source, target, strict=True):
        if one.shape[::2] != other.shape[::2] or one.shape[1] != n or n > other.shape[1]:
            message = f"{name} {tuple(one.shape)} do not fit {tuple(other.shape)}: [H, n, D] into [H, T, D]"
            raise ValueError(message)
    if rows is not None and len(rows) != n:
        message = f"rows [{len(rows)}] do not fit keys {tuple(source[0].shape)}: one for each"
        raise ValueError(message)
    if turn is not None and (start + 2 * turn[0].shape[-1] > source[0].shape[-1] or len(turn[0]) != n):
        message = f"angles {tuple(turn[0].shape)} from dimension {start} on do not fit keys {tuple(source[0].shape)}"
        raise ValueError(message)
    if n:
        (_launch if fused else _reference)(source, target, turn, rows, start, neighbours)


def _reference(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    turn: tuple[torch.Tensor, torch.Tensor] | None,
    rows: torch.Tensor | None,
    start: int,
    neighbours: bool,
) -> None:
    keys = source[0] if turn is None else turned(source[0], *turn, start=start, neighbours=neighbours)
    for made, into in zip((keys, source[1]), target, strict=True):
        if rows is None:
            into[:, : made.shape[1]] = made
        else:
            into.index_copy_(1, rows, made)


def turned(
    keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, start: int = 0, neighbours: bool = False
) -> torch.Tensor:
    """Return ``keys`` ``[..., T, D]`` turned by the angles ``[T, width / 2]``, in their own dtype."""
    width = 2 * cos.shape[-1]
    wide = keys[..., start : start + width].to(torch.float32)
    if neighbours:
        first, second = wide[..., 0::2], wide[..., 1::2]
        moved = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = wide.chunk(2, dim=-1)
        moved = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    if width == keys.shape[-1]:
        return moved.to(keys.dtype)
    whole = keys.clone()
    whole[..., start : start + width] = moved.to(keys.dtype)
    return whole


def _launch(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    turn: tuple[torch.Tensor, torch.Tensor] | None,
    rows: torch.Tensor | None,
    start: int,
    neighbours: bool,
) -> None:
    (keys, values), (into_keys, into_values) = source, target
    places = torch.arange(keys.shape[1], device=keys.device) if rows is None else rows.contiguous()
    cos, sin = (torch.empty(0, device=keys.device),) * 2 if turn is None else (part.contiguous() for part in turn)
    half = cos.shape[-1] if turn is not None else 0
    n, tiles = len(places), triton.cdiv(len(places), _ROWS)
    for heads, side in ((keys.shape[0], 0), (values.shape[0], 1)):
        one, other = (keys, into_keys) if side == 0 else (values, into_values)
        if not heads:
            continue
        _kernel[(tiles, heads)](
            *(one, other, places, cos, sin, n),
            *(one.stride(0), one.stride(1), one.stride(2), other.stride(0), other.stride(1), other.stride(2)),
            *(one.shape[2], start, half if side == 0 else 0),
            *(neighbours, _ROWS, power_of_two(one.shape[2])),
        )


@jit
def _kernel(
    source, target, rows, cos, sin, n,
    source_head, source_row, source_dim, target_head, target_row, target_dim,
    width, start, half,
    NEIGHBOURS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = at < n
    to = tl.load(rows + at, mask=inside, other=0).to(tl.int64)
    dim = tl.arange(0, WIDTH)
    both = inside[:, None] & (dim < width)[None, :]
    from_row = source + head * source_head + at.to(tl.int64)[:, None] * source_row
    own = tl.load(from_row + dim[None, :] * source_dim, mask=both, other=0.0)
    into = target + head * target_head + to[:, None] * target_row + dim[None, :] * target_dim
    if half > 0:
        rotary = (dim >= start) & (dim < start + 2 * half)
        inner = dim - start
        if NEIGHBOURS:
            first = inner % 2 == 0
            pair = inner // 2
            partner = tl.where(first, dim + 1, dim - 1)
        else:
            first = inner < half
            pair = tl.where(first, inner, inner - half)
            partner = tl.where(first, dim + half, dim - half)
        turning = both & rotary[None, :]
        other = tl.load(from_row + partner[None, :] * source_dim, mask=turning, other=0.0).to(tl.float32)
        angle = at.to(tl.int64)[:, None] * half + pair[None, :]
        c = tl.load(cos + angle, mask=turning, other=1.0)
        s = tl.load(sin + angle, mask=turning, other=0.0)
        signed = tl.where(first[None, :], -s, s)
        moved = own.to(tl.float32) * c + other * signed
        own = tl.where(turning, moved.to(own.dtype), own)
    tl.store(into, own, mask=both)
