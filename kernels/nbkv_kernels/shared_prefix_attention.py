"""Many rows or branches over one prefix and each over keys of its own; the prefix is read once for all of them.

All query rows of a K/V head, of every branch and every head of its group, become the rows of one attention over the
prefix (cascade attention; Hydragen, arXiv 2402.05099); the branches' own keys are a second, batched attention; the
parts are merged exactly by their log-sum-exp. Bytes: the prefix once, whatever the number of branches. The prefix may
lie in several pieces. No part's output is rounded to half precision before they are merged: the result is rounded
once, as that of one attention over all keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nbkv_kernels.dense import dense_attention, with_sinks
from nbkv_kernels.merge_states import merge_states
from nbkv_kernels.row_attention import row_attention

KV = tuple[torch.Tensor, torch.Tensor]
State = tuple[torch.Tensor, torch.Tensor]

_STRETCH = 1024  # keys that the reference widens at a time: such copies stay in a processor's cache


class _How(NamedTuple):
    """What holds for all parts."""

    scale: float
    softcap: float | None
    fused: bool


def shared_prefix_attention(
    q: torch.Tensor,
    pieces: Sequence[KV],
    own: KV,
    upper: torch.Tensor | None = None,
    lower: torch.Tensor | None = None,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    fused: bool = False,
) -> State:
    """Attend from ``q`` ``[B, H_q, n, D]`` to shared ``pieces``, each ``[H, T, D]``, and own keys ``[B, H, S, D]``.

    Row r of branch b sees its first ``upper[b, r]`` own keys (``[n]`` or ``[B, n]``; 0: none; None: all), and of all
    keys, those of the pieces first, the ones from ``lower[b, r]`` on (None: all). ``mask``, booleans ``[n, S]``, says
    instead which of the own keys each row sees. ``sinks`` ``[H_q]`` count once. Returns the output
    ``[B, H_q, n, D_v]`` and float32 log-sum-exp ``[B, H_q, n]``. ``fused`` launches Triton kernels.
    Raises ``ValueError`` for shapes that do not fit.
    """
    for keys, _ in pieces:
        if keys.shape[0] != own[0].shape[1] or q.shape[1] % max(1, keys.shape[0]):
            message = f"q {tuple(q.shape)}, prefix {tuple(keys.shape)} and own keys {tuple(own[0].shape)} do not fit"
            raise ValueError(message)
    how = _How(q.shape[-1] ** -0.5 if scale is None else scale, softcap, fused)
    parts, at = [], 0
    for keys, values in pieces:
        parts += _over_piece(q, keys, values, None if lower is None else lower - at, how)
        at += keys.shape[1]
    if mask is None:
        parts += _over(q, *own, upper, None if lower is None else lower - at, how)
    else:
        parts += _over_masked(q, *own, mask, how)
    out, lse = merge_states(*(torch.stack(side) for side in zip(*parts, strict=True)), fused=fused)
    out, lse = (out, lse) if sinks is None else with_sinks(out, lse, sinks)
    return out.to(q.dtype), lse


def _over_piece(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lower: torch.Tensor | None, how: _How
) -> list[State]:
    batch, heads, n, width = q.shape
    if batch == 1 and not how.fused:  # the heads of a group share keys in the reference as it is
        return _over(q, keys[None], values[None], None, lower, how)
    kv_heads, groups = keys.shape[0], heads // keys.shape[0]
    folded = q.reshape(batch, kv_heads, groups, n, width).transpose(0, 1).reshape(1, kv_heads, -1, width)
    if lower is not None:
        lower = lower.expand(batch, n)[:, None].expand(batch, groups, n).reshape(-1)

    def unfolded(side: torch.Tensor) -> torch.Tensor:
        rest = side.shape[3:]
        return side.reshape(kv_heads, batch, groups, n, *rest).transpose(0, 1).reshape(batch, heads, n, *rest)

    states = _over(folded, keys[None], values[None], None, lower, how)
    return [(unfolded(out), unfolded(lse)) for out, lse in states]


def _over(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    upper: torch.Tensor | None,
    lower: torch.Tensor | None,
    how: _How,
) -> list[State]:
    """Return the states of one part in float32; where its keys must be widened, of its stretches."""
    wide = how.fused or q.dtype in {torch.float32, torch.float64}
    step = max(1, k.shape[2]) if wide else _STRETCH
    states = []
    for at in range(0, max(1, k.shape[2]), step):
        high, low = (None if edge is None else edge - at for edge in (upper, lower))
        states.append(_attend(q, k[:, :, at : at + step], v[:, :, at : at + step], high, low, how))
    return states


def _over_masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, how: _How) -> list[State]:
    """Return the same where a mask says what is seen; torch computes it on every device."""
    wide = torch.promote_types(q.dtype, torch.float32)
    step = max(1, k.shape[2]) if q.dtype == wide else _STRETCH
    q = q.to(wide)
    states = []
    for at in range(0, max(1, k.shape[2]), step):
        keys, values = (side[:, :, at : at + step].to(wide) for side in (k, v))
        seen = mask[:, at : at + step]
        out, lse = dense_attention(q, keys, values, scale=how.scale, mask=seen, softcap=how.softcap)
        states.append((out, lse.to(torch.float32)))
    return states


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    upper: torch.Tensor | None,
    lower: torch.Tensor | None,
    how: _How,
) -> State:
    if upper is None and lower is None and not how.fused:
        wide = torch.promote_types(q.dtype, torch.float32)
        out, lse = dense_attention(q.to(wide), k.to(wide), v.to(wide), scale=how.scale, softcap=how.softcap)
        return out, lse.to(torch.float32)
    upper = torch.full((q.shape[2],), k.shape[2], device=q.device) if upper is None else upper
    return row_attention(q, k, v, upper, lower, **how._asdict(), wide=True)
