"""Attention over keys that any mask may hide, by torch's own fused kernels, with the log-sum-exp that they keep.

What has no such kernel (softcap, float64, keys and values of different widths, masks on CUDA) is computed step by step
in float32 or wider.
"""

from __future__ import annotations

import torch

State = tuple[torch.Tensor, torch.Tensor]

_FLASH_HEAD = 256  # the widest head of the fused kernels on CUDA
_FLASH_STEP = 8  # and what its width must be a multiple of


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None = None,
    softcap: float | None = None,
    hidden: torch.Tensor | None = None,
) -> State:
    """Return the output ``[B, H_q, n, D_v]`` in q's dtype and its log-sum-exp ``[B, H_q, n]``, float32 or wider.

    ``q`` is ``[B, H_q, n, D]``, ``k`` ``[B, H, T, D]``, ``v`` ``[B, H, T, D_v]``. ``mask`` broadcasts to
    ``[B, H_q, n, T]``: booleans (true: may be seen) or numbers added to the scores. Rows without a
    key, and ``T = 0``, give 0 and ``-inf``; who knows which these are says so with ``hidden``, booleans that broadcast
    to ``[B, H_q, n]``.
    """
    batch, heads, rows, width = q.shape
    shared, value_width = k.shape[1], v.shape[-1]
    if not rows or not k.shape[-2]:
        empty = q.new_full((batch, heads, rows), -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
        return q.new_zeros(batch, heads, rows, value_width), empty
    fusible = softcap is None and width == value_width and q.dtype != torch.float64
    if fusible and q.device.type == "cpu" and mask is not None:
        return _masked_on_cpu(q, k, v, scale=scale, mask=mask, hidden=hidden)
    if mask is None:
        q = q.reshape(batch, shared, -1, width)  # the heads of a group become rows: no key is read twice
    on_cuda = q.device.type == "cuda" and mask is None and width % _FLASH_STEP == 0 and width <= _FLASH_HEAD
    if fusible and q.device.type == "cpu":
        out, lse = _on_cpu(q, k, v, scale, None)
    elif fusible and on_cuda:
        out, lse = _on_cuda(q, k, v, scale)
    else:
        out, lse = _plain(q, k, v, scale=scale, mask=mask, softcap=softcap)
    return out.reshape(batch, heads, rows, value_width), lse.reshape(batch, heads, rows)


def with_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> State:
    """Return ``(out, lse)`` with the logits ``sinks`` ``[H]`` in the softmax too: they take a share, give nothing."""
    whole = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    return (out.to(lse.dtype) * (lse - whole).exp()[..., None]).to(out.dtype), whole


def _on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, bias: torch.Tensor | None) -> State:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001  (the public one keeps the lse)
    out, lse = kernel(q, k, v, attn_mask=bias, scale=scale)
    return out, lse


def _masked_on_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor,
    hidden: torch.Tensor | None,
) -> State:
    """Attend with the heads of a group as heads over one K/V head, so that a mask for all heads stays one mask."""
    (batch, heads, rows, width), (shared, keys) = q.shape, k.shape[1:3]
    groups = heads // shared
    bias = _additive(mask, q.dtype)
    hidden = torch.isneginf(bias.amax(-1)) if hidden is None else hidden
    if bias.dim() == 4 and bias.shape[1] > 1:  # noqa: PLR2004  (a mask of each head's own)
        bias = bias.expand(batch, heads, rows, keys).reshape(batch * shared, groups, rows, keys)
    elif bias.dim() == 4 and bias.shape[0] > 1:  # noqa: PLR2004
        bias = bias.expand(batch, 1, rows, keys).repeat_interleave(shared, dim=0)
    else:
        bias = bias.expand(rows, keys)[None, None] if bias.dim() < 4 else bias.expand(1, 1, rows, keys)  # noqa: PLR2004
    folded = q.reshape(batch * shared, groups, rows, width)
    k, v = (side.reshape(batch * shared, 1, keys, width).expand(-1, groups, -1, -1) for side in (k, v))
    out, lse = _on_cpu(folded, k, v, scale, bias)
    out, lse = out.reshape(batch, heads, rows, width), lse.reshape(batch, heads, rows)
    if not bool(hidden.any()):
        return out, lse
    # the kernel says 0 or no number at all for rows that see nothing
    return out.masked_fill(hidden[..., None], 0.0), lse.masked_fill(hidden, -torch.inf)


def _on_cuda(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> State:
    aten = torch.ops.aten
    if q.dtype in {torch.float16, torch.bfloat16}:
        out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)  # noqa: SLF001
    else:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)  # noqa: SLF001, FBT003
    return out, lse[..., : q.shape[-2]]  # padded by some kernels


def _plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None,
    softcap: float | None,
) -> State:
    wide = torch.promote_types(q.dtype, torch.float32)
    batch, heads, rows, width = q.shape
    grouped = q.to(wide).reshape(batch, k.shape[1], -1, width)
    scores = (grouped @ k.to(wide).transpose(-1, -2)).reshape(batch, heads, rows, -1) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + _additive(mask, wide)
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.masked_fill(torch.isneginf(lse), 0.0)[..., None])
    out = weights.reshape(batch, k.shape[1], -1, weights.shape[-1]) @ v.to(wide)
    return out.reshape(batch, heads, rows, -1).to(q.dtype), lse


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.full(mask.shape, -torch.inf, dtype=dtype, device=mask.device).masked_fill_(mask, 0.0)
