"""How far fresh K/V of some rows are from what the cache holds there.

``d_r = sum over sides, heads, dimensions of |new - old|^p`` in float32: the KV deviation by which CacheBlend (arXiv
2405.16444, section 4) chooses rows. Old and new are read once.
"""

from __future__ import annotations

import torch

from nbkv_kernels._triton import jit, power_of_two, tl, triton

_ROWS = 8


def kv_deviation(
    cached: tuple[torch.Tensor, ...],
    fresh: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    *,
    power: int = 2,
    fused: bool = False,
) -> torch.Tensor:
    """Return how far ``fresh`` ``[H, R, D]`` is from ``rows`` ``[R]`` of ``cached`` ``[H, T, D]``, as float32 ``[R]``.

    Both are tuples of equally many sides (keys, values, or both). ``power`` is 1 or 2. ``fused`` launches the
    Triton kernel. Raises ``ValueError``.
    """
    if power not in {1, 2}:
        message = f"power={power!r} is not accepted: 1 or 2"
        raise ValueError(message)
    for old, new in zip(cached, fresh, strict=True):
        if old.shape[0] != new.shape[0] or new.shape[1] != len(rows) or old.shape[2] != new.shape[2]:
            message = f"fresh {tuple(new.shape)} does not fit rows [{len(rows)}] of cached {tuple(old.shape)}"
            raise ValueError(message)
    if not len(rows):
        return torch.zeros(0, device=rows.device)
    return (_launch if fused else _reference)(cached, fresh, rows, power)


def _reference(
    cached: tuple[torch.Tensor, ...],
    fresh: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    power: int,
) -> torch.Tensor:
    distance = torch.zeros(len(rows), device=rows.device)
    for old, new in zip(cached, fresh, strict=True):
        gap = new.to(torch.float32) - old.index_select(1, rows).to(torch.float32)
        distance += (gap.abs() if power == 1 else gap.square()).sum(dim=(0, 2))
    return distance


def _launch(
    cached: tuple[torch.Tensor, ...],
    fresh: tuple[torch.Tensor, ...],
    rows: torch.Tensor,
    power: int,
) -> torch.Tensor:
    n, rows = len(rows), rows.contiguous()
    heads = max(side.shape[0] for side in cached)
    # a row of partial sums for each side and head, added up by torch: a sum that does not depend on the schedule
    parts = torch.zeros(len(cached), heads, n, device=rows.device)
    for index, (old, new) in enumerate(zip(cached, fresh, strict=True)):
        _kernel[(triton.cdiv(n, _ROWS), old.shape[0])](
            *(old, new, rows, parts[index], n, old.shape[2]),
            *(old.stride(0), old.stride(1), old.stride(2), new.stride(0), new.stride(1), new.stride(2)),
            *(power, _ROWS, power_of_two(old.shape[2])),
        )
    return parts.sum(dim=(0, 1))


@jit
def _kernel(
    old, new, rows, parts, n, width,
    old_head, old_row, old_dim, new_head, new_row, new_dim,
    POWER: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = at < n
    row = tl.load(rows + at, mask=inside, other=0).to(tl.int64)
    dim = tl.arange(0, WIDTH)
    both = inside[:, None] & (dim < width)[None, :]
    before = tl.load(old + head * old_head + row[:, None] * old_row + dim[None, :] * old_dim, mask=both, other=0.0)
    now = tl.load(
        new + head * new_head + at.to(tl.int64)[:, None] * new_row + dim[None, :] * new_dim, mask=both, other=0.0
    )
    gap = now.to(tl.float32) - before.to(tl.float32)
    gap = tl.abs(gap) if POWER == 1 else gap * gap
    tl.store(parts + head * n + at, tl.sum(gap, axis=1), mask=inside)
