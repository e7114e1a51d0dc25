"""The attention primitives that several methods are made of: attention over a part of the keys, and the exact merge.

Softmax over a set of keys can be taken apart: each part gives its normalised output and the logarithm of its
normaliser, and the two numbers of all parts give back the output over the whole set (FlashAttention-2, arXiv
2307.08691, section 3.1; FlashInfer calls it the merge of attention states). Queries may then read a shared prefix once,
or keep what far keys gave them and compute only what near keys give (FlashBlock, arXiv 2602.05305).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch

State = tuple[torch.Tensor, torch.Tensor]

_FLASH_HEAD = 256  # the widest head of the fused kernels on CUDA
_FLASH_STEP = 8  # and what its width must be a multiple of


def partial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> State:
    """Return the output ``[B, Hq, n, Dv]`` of attention over these keys alone, and its lse ``[B, Hq, n]``.

    ``q`` is ``[B, Hq, n, D]``, ``k`` ``[B, Hk, T, D]``, ``v`` ``[B, Hk, T, Dv]``; query head ``h`` reads head
    ``h // (Hq / Hk)``. ``mask`` broadcasts to ``[B, Hq, n, T]``: booleans (true: may be seen) or numbers that are added
    to the scores. ``softcap`` is that of the scores before the mask. ``sinks`` ``[Hq]`` are logits that take a share of
    the softmax and give nothing; exactly one part of a set may count them. The output has the queries' dtype, lse is
    the natural logarithm of the sum of exponentials, in float32 (float64 for float64). Rows without a key, and
    ``T = 0``, give 0 and -inf.
    """
    batch, heads, rows, _ = q.shape
    shared = k.shape[1]
    folded = q.reshape(batch, shared, -1, q.shape[-1])  # the heads of a group become rows: no key is read twice
    out, lse = _attend(folded, k, v, scale=scale, mask=_fold(mask, q, k), softcap=softcap)
    out, lse = out.reshape(batch, heads, rows, -1), lse.reshape(batch, heads, rows)
    return (out, lse) if sinks is None else _with_sinks(out, lse, sinks)


def merge_states(parts: Iterable[State]) -> State:
    """Return the ``(out, lse)`` of attention over all keys from those over disjoint parts, in float32 or wider.

    Exact up to rounding, whatever the parts weigh; parts without keys (lse -inf) change nothing.
    """
    states = [(out.to(torch.promote_types(out.dtype, torch.float32)), lse) for out, lse in parts]
    return reduce(_merge, states)


def _merge(one: State, other: State) -> State:
    # Two parts without keys: the difference is no number, and any weight gives 0.
    ahead = torch.nan_to_num(one[1] - other[1], nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    out = torch.lerp(other[0], one[0], torch.sigmoid(ahead)[..., None].to(one[0].dtype))
    return out, torch.logaddexp(one[1], other[1])


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None,
    softcap: float | None,
) -> State:
    if k.shape[-2] == 0:
        empty = q.new_full(q.shape[:-1], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
        return q.new_zeros(*q.shape[:-1], v.shape[-1]), empty
    if softcap is None and k.shape[-1] == v.shape[-1]:
        if q.device.type == "cpu":
            return _fused(q, k, v, scale=scale, mask=mask)
        if q.device.type == "cuda" and mask is None and q.shape[-1] % _FLASH_STEP == 0 and q.shape[-1] <= _FLASH_HEAD:
            return _fused_on_cuda(q, k, v, scale=scale)
    return _plain(q, k, v, scale=scale, mask=mask, softcap=softcap)


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, mask: torch.Tensor | None) -> State:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001  (the public one keeps lse)
    bias = None if mask is None else _additive(mask, q.dtype)
    out, lse = kernel(q, k, v, attn_mask=bias, scale=scale)
    if bias is not None:  # the kernel says 0, not -inf, for rows that see nothing
        lse = lse.masked_fill(torch.isneginf(bias).all(-1), -torch.inf)
    return out, lse


def _fused_on_cuda(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float) -> State:
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
    scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + _additive(mask, wide)
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.masked_fill(torch.isneginf(lse), 0.0)[..., None])
    return (weights @ v.to(wide)).to(q.dtype), lse


def _with_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> State:
    total = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
    return out * torch.exp(lse - total)[..., None].to(out.dtype), total


def _fold(mask: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
    """Return ``mask`` as ``[B, Hk, Hq / Hk * n, T]``, for queries whose groups are rows."""
    if mask is None:
        return None
    (batch, heads, rows, _), shared, keys = q.shape, k.shape[1], k.shape[2]
    return mask.expand(batch, heads, rows, keys).reshape(batch, shared, heads // shared * rows, keys)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
