"""Exact merge of attention computed over disjoint sets of keys.

With ``out_p`` the normalised output over key set p and ``lse_p`` the logarithm of its softmax denominator,
``lse = log sum_p exp(lse_p)`` and ``out = sum_p exp(lse_p - lse) out_p`` (online softmax, Milakov and Gimelshein,
arXiv 1805.02867; the merge of FlashDecoding and cascade attention). A part without keys has ``lse = -inf`` and weighs
nothing.
"""

from __future__ import annotations

import torch

from nbkv_kernels._triton import jit, power_of_two, tl, triton

_ROWS = 16


def merge_states(outs: torch.Tensor, lses: torch.Tensor, *, fused: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge ``outs`` ``[P, ..., D]`` with ``lses`` ``[P, ...]`` (float32 or wider) to ``[..., D]`` and ``[...]``.

    Rows without any key give zeros and ``-inf``. ``fused`` launches the Triton kernel. Raises ``ValueError`` if the
    shapes do not belong together.
    """
    if outs.shape[:-1] != lses.shape or not len(outs):
        message = (
            f"outs {tuple(outs.shape)} and lses {tuple(lses.shape)} do not belong together: [P, ..., D] and [P, ...]"
        )
        raise ValueError(message)
    lses = lses.to(torch.promote_types(lses.dtype, torch.float32))
    return _launch(outs, lses) if fused and lses.numel() else _reference(outs, lses)


def _reference(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    top = lses.amax(0)
    safe = torch.where(top.isneginf(), torch.zeros_like(top), top)
    weights = (lses - safe).exp()
    total = weights.sum(0)
    shares = weights / torch.where(total == 0, torch.ones_like(total), total)
    # an empty part may hold anything, also NaN: its output must not be touched by the product
    wide = torch.promote_types(outs.dtype, torch.float32)
    seen = outs.to(wide).masked_fill(shares[..., None] == 0, 0.0)
    out = (seen * shares[..., None].to(wide)).sum(0)
    return out.to(outs.dtype), safe + total.log()


def _launch(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts, width = len(outs), outs.shape[-1]
    flat, logs = outs.reshape(parts, -1, width).contiguous(), lses.reshape(parts, -1).contiguous()
    rows = flat.shape[1]
    out, lse = flat.new_empty(rows, width), logs.new_empty(rows)
    grid = (triton.cdiv(rows, _ROWS),)
    _kernel[grid](flat, logs, out, lse, rows, width, parts, _ROWS, power_of_two(width))
    return out.reshape(outs.shape[1:]), lse.reshape(lses.shape[1:])


@jit
def _kernel(outs, lses, out, lse, rows, width, parts, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, WIDTH)
    inside = row < rows
    both = inside[:, None] & (dim < width)[None, :]
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for part in range(parts):
        log = tl.load(lses + part * rows + row, mask=inside, other=float("-inf"))
        new = tl.maximum(top, log)
        safe = tl.where(new == float("-inf"), 0.0, new)
        old_share, share = tl.exp(top - safe), tl.exp(log - safe)
        at = (part * rows + row).to(tl.int64)[:, None] * width + dim[None, :]
        piece = tl.load(outs + at, mask=both & (share > 0)[:, None], other=0.0).to(tl.float32)
        acc = acc * old_share[:, None] + piece * share[:, None]
        total = total * old_share + share
        top = new
    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    tl.store(out + row.to(tl.int64)[:, None] * width + dim[None, :], acc.to(out.dtype.element_ty), mask=both)
    log = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    tl.store(lse + row, log, mask=inside)
