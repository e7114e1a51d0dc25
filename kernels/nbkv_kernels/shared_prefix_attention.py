"""Many rows or branches over one prefix and each over keys of its own; the prefix is read once for all of them.

All query rows of a K/V head, of every branch and every head of its group, become the rows of one attention over the
prefix (cascade attention; Hydragen, arXiv 2402.05099); the branches' own keys are a second, batched attention; both
parts are merged exactly by their log-sum-exp. Bytes: the prefix once, whatever the number of branches.
"""

from __future__ import annotations

import torch

from nbkv_kernels.merge_states import merge_states
from nbkv_kernels.row_attention import row_attention

KV = tuple[torch.Tensor, torch.Tensor]


def shared_prefix_attention(
    q: torch.Tensor,
    prefix: KV,
    own: KV,
    upper: torch.Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    fused: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from ``q`` ``[B, H_q, n, D]`` to all of ``prefix`` ``[H, T, D]`` and to own keys ``[B, H, S, D]``.

    Row r of branch b sees its first ``upper[b, r]`` own keys (``[B, n]``; 0: none). Returns the output
    ``[B, H_q, n, D_v]`` and float32 log-sum-exp ``[B, H_q, n]``. ``fused`` launches Triton kernels. Raises
    ``ValueError`` for shapes that do not fit.
    """
    keys, values = prefix
    if keys.shape[0] != own[0].shape[1] or q.shape[1] % max(1, keys.shape[0]):
        message = f"q {tuple(q.shape)}, prefix {tuple(keys.shape)} and own keys {tuple(own[0].shape)} do not fit"
        raise ValueError(message)
    shared = _over_prefix(q, keys, values, scale, softcap, fused)
    each = row_attention(q, *own, upper, scale=scale, softcap=softcap, fused=fused)
    return merge_states(*(torch.stack(pair) for pair in zip(shared, each, strict=True)), fused=fused)


def _over_prefix(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float | None,
    softcap: float | None,
    fused: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, n, width = q.shape
    kv_heads, length, value_width = keys.shape[0], keys.shape[1], values.shape[2]
    groups = heads // kv_heads
    folded = q.reshape(batch, kv_heads, groups, n, width).transpose(0, 1).reshape(1, kv_heads, -1, width)
    everything = torch.full((folded.shape[2],), length, device=q.device)
    out, lse = row_attention(folded, keys[None], values[None], everything, scale=scale, softcap=softcap, fused=fused)
    back = (kv_heads, batch, groups, n)
    out = out.reshape(*back, value_width).transpose(0, 1).reshape(batch, heads, n, value_width)
    return out, lse.reshape(back).transpose(0, 1).reshape(batch, heads, n)
