"""The attention and row primitives that methods are made of, and which code runs them: Triton or torch.

Softmax over a set of keys can be taken apart: each part gives its normalised output and the logarithm of its
normaliser, and the two numbers of all parts give back the output over the whole set (FlashAttention-2, arXiv
2307.08691, section 3.1; FlashInfer calls it the merge of attention states). Queries may then read a shared prefix once,
or keep what far keys gave them and compute only what near keys give (FlashBlock, arXiv 2602.05305).

``NBKV_KERNELS`` chooses: ``auto`` (Triton on CUDA, torch elsewhere), ``triton``, ``torch``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import nbkv_kernels as kernels
import torch
from nbkv_kernels import Projection, turned

from nbkv.errors import BadOption

__all__ = [
    "Projection",
    "State",
    "kv_deviation",
    "merge_states",
    "partial_attention",
    "project_kv",
    "rotate_gather",
    "row_attention",
    "shared_prefix_attention",
    "turned",
]

State = tuple[torch.Tensor, torch.Tensor]


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
    ``h // (Hq / Hk)``. ``mask`` broadcasts to ``[B, Hq, n, T]``: booleans (true: attended to) or numbers that are added
    to the scores. ``softcap`` is that of the scores before the mask. ``sinks`` ``[Hq]`` are logits that take a share of
    the softmax and give nothing; exactly one part of a set may count them. The output has the queries' dtype, lse is
    the natural logarithm of the sum of exponentials, in float32 (float64 for float64). Rows without a key, and
    ``T = 0``, give 0 and -inf.
    """
    out, lse = kernels.dense_attention(q, k, v, scale=scale, mask=mask, softcap=softcap)
    return (out, lse) if sinks is None else kernels.with_sinks(out, lse, sinks)


def merge_states(parts: Iterable[State]) -> State:
    """Return the ``(out, lse)`` of attention over all keys from those over disjoint parts, in float32 or wider.

    Exact up to rounding, whatever the parts weigh; parts without keys (lse -inf) change nothing.
    """
    outs, lses = (torch.stack(side) for side in zip(*parts, strict=True))
    outs = outs.to(torch.promote_types(outs.dtype, torch.float32))
    return kernels.merge_states(outs, lses, fused=fused(outs))


def row_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    upper: torch.Tensor,
    lower: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> State:
    """Return the output ``[B, Hq, R, Dv]`` and lse ``[B, Hq, R]`` of rows that attend to keys ``[lower, upper)`` each.

    ``q`` is ``[B, Hq, R, D]``, ``k`` ``[B, Hk, T, D]``, ``v`` ``[B, Hk, T, Dv]``, the edges ``[R]``. No mask is made.
    """
    use = fused(q)
    return kernels.row_attention(q, k, v, upper, lower, scale=scale, softcap=softcap, sinks=sinks, fused=use)


def shared_prefix_attention(
    q: torch.Tensor,
    pieces: Sequence[tuple[torch.Tensor, torch.Tensor]],
    own: tuple[torch.Tensor, torch.Tensor],
    upper: torch.Tensor | None = None,
    lower: torch.Tensor | None = None,
    *,
    mask: torch.Tensor | None = None,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> State:
    """Return the output ``[B, Hq, n, Dv]`` and lse ``[B, Hq, n]`` over shared ``pieces`` and ``own`` keys and values.

    ``q`` is ``[B, Hq, n, D]``, the pieces ``[Hk, T, D]`` and ``[Hk, T, Dv]``, one after another, own keys
    ``[B, Hk, S, D]``. Rows attend to their first ``upper`` own keys and, of all keys, those from ``lower`` on, both
    ``[n]`` or ``[B, n]`` (None: all). ``mask``, booleans ``[n, S]``, says instead which own keys each row sees.
    """
    use = fused(q)
    options: dict[str, Any] = {"mask": mask, "scale": scale, "softcap": softcap, "sinks": sinks, "fused": use}
    return kernels.shared_prefix_attention(q, pieces, own, upper, lower, **options)


def rotate_gather(
    source: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
    angles: tuple[torch.Tensor, torch.Tensor],
    *,
    start: int,
    neighbours: bool,
) -> None:
    """Write keys and values ``source`` ``[H, T, D]`` over ``target``, the keys rotated by cosine and sine ``angles``.

    ``angles`` is float32 ``[T, width / 2]``; the rotary dimensions are ``[start, start + width)``, in pairs of
    halves or of neighbours.
    """
    use = fused(source[0])
    kernels.rotate_gather(source, target, angles, start=start, neighbours=neighbours, fused=use)


def project_kv(
    hidden: torch.Tensor,
    weights: Projection,
    angles: tuple[torch.Tensor, torch.Tensor],
    target: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Write keys and values of a layer's input ``hidden`` ``[n, d]`` over ``target`` ``[H, n, D]``.

    ``angles`` is cosine and sine ``[n, D / 2]`` of the rows' positions, for pairs of halves.
    """
    kernels.project_kv(hidden, weights, angles, target, fused=fused(hidden))


def kv_deviation(
    cached: tuple[torch.Tensor, ...], fresh: tuple[torch.Tensor, ...], rows: torch.Tensor, *, power: int = 2
) -> torch.Tensor:
    """Return float32 ``[R]``: ``|fresh - cached|`` to the ``power``, summed over sides, heads and dimensions.

    ``fresh`` are ``[H, R, D]``, and are compared with ``rows`` ``[R]`` of ``cached`` ``[H, T, D]``.
    """
    return kernels.kv_deviation(cached, fresh, rows, power=power, fused=fused(rows))


def fused(tensor: torch.Tensor) -> bool:
    """Return whether work on ``tensor`` is Triton's; raises ``BadOption`` where it was asked for and cannot be."""
    wanted = os.environ.get("NBKV_KERNELS", "auto")
    if wanted not in {"auto", "triton", "torch"}:
        message = f"NBKV_KERNELS={wanted!r} is not accepted: auto, triton or torch"
        raise BadOption(message)
    if wanted == "triton" and not kernels.runs_on(tensor):
        message = "NBKV_KERNELS=triton needs Triton and a CUDA device, or TRITON_INTERPRET=1 (accepted: auto, torch)"
        raise BadOption(message)
    return wanted == "triton" or (wanted == "auto" and tensor.is_cuda and kernels.runs_on(tensor))
