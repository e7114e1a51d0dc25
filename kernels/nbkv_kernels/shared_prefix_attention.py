"""Many rows or branches over one prefix and each over keys of its own; the prefix is read once for all of them.

All query rows of a K/V head, of every branch and every head of its group, become the rows of one attention over the
prefix (cascade attention; Hydragen, arXiv 2402.05099); the branches' own keys are a second, batched attention; the
parts are merged exactly by their log-sum-exp. Bytes: the prefix once, whatever the number of branches. The prefix may
lie in several pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv_kernels.dense import dense_attention, with_sinks
from nbkv_kernels.merge_states import merge_states
from nbkv_kernels.row_attention import row_attention

KV = tuple[torch.Tensor, torch.Tensor]
State = tuple[torch.Tensor, torch.Tensor]


def shared_prefix_attention(
    q: torch.Tensor,
    pieces: Sequence[KV],
    own: KV,
    upper: torch.Tensor | None = None,
    lower: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    fused: bool = False,
) -> State:
    """Attend from ``q`` ``[B, H_q, n, D]`` to shared ``pieces``, each ``[H, T, D]``, and own keys ``[B, H, S, D]``.

    Row r of branch b sees its first ``upper[b, r]`` own keys (``[n]`` or ``[B, n]``; 0: none; None: all), and of all
    keys, those of the pieces first, the ones from ``lower[b, r]`` on (None: all). ``sinks`` ``[H_q]`` count once.
    Returns the output ``[B, H_q, n, D_v]`` and float32 log-sum-exp ``[B, H_q, n]``. ``fused`` launches Triton kernels.
    Raises ``ValueError`` for shapes that do not fit.
    """
    for keys, _ in pieces:
        if keys.shape[0] != own[0].shape[1] or q.shape[1] % max(1, keys.shape[0]):
            message = f"q {tuple(q.shape)}, prefix {tuple(keys.shape)} and own keys {tuple(own[0].shape)} do not fit"
            raise ValueError(message)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    parts, at = [], 0
    for keys, values in pieces:
        edge = None if lower is None else lower - at
        parts.append(_over_piece(q, keys, values, edge, scale, softcap, fused))
        at += keys.shape[1]
    edge = None if lower is None else lower - at
    parts.append(_attend(q, *own, upper, edge, scale, softcap, fused))
    out, lse = merge_states(*(torch.stack(side) for side in zip(*parts, strict=True)), fused=fused)
    return (out, lse) if sinks is None else with_sinks(out, lse, sinks)


def _over_piece(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lower: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    fused: bool,
) -> State:
    batch, heads, n, width = q.shape
    if batch == 1 and not fused:  # the heads of a group share keys in the reference as it is
        return _attend(q, keys[None], values[None], None, lower, scale, softcap, fused)
    kv_heads, value_width = keys.shape[0], values.shape[2]
    groups = heads // kv_heads
    folded = q.reshape(batch, kv_heads, groups, n, width).transpose(0, 1).reshape(1, kv_heads, -1, width)
    if lower is not None:
        lower = lower.expand(batch, n)[:, None].expand(batch, groups, n).reshape(-1)
    out, lse = _attend(folded, keys[None], values[None], None, lower, scale, softcap, fused)
    back = (kv_heads, batch, groups, n)
    out = out.reshape(*back, value_width).transpose(0, 1).reshape(batch, heads, n, value_width)
    return out, lse.reshape(back).transpose(0, 1).reshape(batch, heads, n)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    upper: torch.Tensor | None,
    lower: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    fused: bool,
) -> State:
    if upper is None and lower is None and not fused:
        out, lse = dense_attention(q, k, v, scale=scale, softcap=softcap)
        return out, lse.to(torch.float32)
    upper = torch.full((q.shape[2],), k.shape[2], device=q.device) if upper is None else upper
    return row_attention(q, k, v, upper, lower, scale=scale, softcap=softcap, fused=fused)
