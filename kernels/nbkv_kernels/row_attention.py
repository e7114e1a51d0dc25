"""Attention of scattered query rows, each over its own range of keys, with the log-sum-exp beside the output.

Row r sees the keys ``lower_r <= j < upper_r``: for a token at position p that is ``[0, p + 1)``, with a sliding window
w ``[p + 1 - w, p + 1)``, in a block-causal model with blocks of b ``[0, (p // b + 1) b)``. A range takes two numbers a
row, so no mask ``[rows, T]`` is ever in memory. FlashAttention's online softmax (arXiv 2205.14135, 2307.08691):
``s_j = scale q.k_j`` (softcap: ``c tanh(s_j / c)``), ``lse = log sum_j exp s_j``, ``out = sum_j exp(s_j - lse) v_j``. A
sink logit (StreamingLLM-style, gpt-oss) joins the denominator only, so it is applied to the finished output:
``lse' = log(exp lse + exp sink)``, ``out' = out exp(lse - lse')``.
"""

from __future__ import annotations

import torch

from nbkv_kernels._triton import INTERPRETED, jit, power_of_two, tl, triton, tuned
from nbkv_kernels.dense import dense_attention, with_sinks
from nbkv_kernels.merge_states import merge_states

_MASK = 1 << 24  # mask entries that the reference holds at a time: 64 MiB in float32
_NEAR, _FAR = 256, 64  # and rows, that stand close together or far apart: a stretch reads no key behind its last row
_PROGRAMS = 264  # programs that keep a large GPU busy: two for each of 132 multiprocessors
_FEW = 16  # rows: one tile holds them all, and keys are what counts
_SPLIT = 512  # keys that are worth a program of their own


def row_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    upper: torch.Tensor,
    lower: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    fused: bool = False,
    wide: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from ``q`` ``[B, H_q, R, D]`` to ``k`` ``[B, H, T, D]``, ``v`` ``[B, H, T, D_v]``; H_q a multiple of H.

    Row r sees keys ``[lower, upper)``, both ``[R]`` or ``[B, R]``, cut to ``[0, T)``; ``lower`` None: from 0 on.
    Returns the output ``[B, H_q, R, D_v]`` in q's dtype and float32 log-sum-exp ``[B, H_q, R]``; a row without keys
    gives zeros and ``-inf``. ``scale`` None is ``D ** -0.5``; ``sinks`` ``[H_q]``. ``fused`` launches the Triton
    kernel. ``wide`` has the output in float32 (at least), for a merge. Raises ``ValueError`` for shapes that do not
    fit.
    """
    batch, heads, n, width = q.shape
    if k.shape[:3] != v.shape[:3] or k.shape[0] != batch or k.shape[3] != width or heads % max(1, k.shape[1]):
        message = (
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} do not fit: "
            "[B, H_q, R, D], [B, H, T, D], [B, H, T, D_v] with H_q a multiple of H"
        )
        raise ValueError(message)
    scale = width**-0.5 if scale is None else scale
    lower = torch.zeros_like(upper) if lower is None else lower
    for name, bound in (("upper", upper), ("lower", lower)):
        if bound.shape not in {(n,), (batch, n)}:
            message = f"{name} {tuple(bound.shape)} does not fit {n} rows: [R] or [B, R]"
            raise ValueError(message)
    low, high = (bound.clamp(0, k.shape[2]).expand(batch, n) for bound in (lower, upper))
    run = _launch if fused and k.shape[2] and n else _reference
    dtype = torch.promote_types(q.dtype, torch.float32) if wide else q.dtype
    out, lse = run(q, k, v, low, high, scale, softcap, dtype)
    return (out, lse) if sinks is None else with_sinks(out, lse, sinks)


def _reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    softcap: float | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run stretches of rows, so that masks stay small, each over the keys that any of its rows sees."""
    heads = 1 if softcap is None else q.shape[1]  # scores that are capped are written out, head by head
    step = max(1, min(_stretch(high), _MASK // max(1, len(q) * heads * k.shape[2])))
    out = q.new_empty(*q.shape[:3], v.shape[-1], dtype=dtype)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    for start in range(0, max(1, q.shape[2]), step):
        rows = slice(start, start + step)
        first, last = _extent(low[:, rows], high[:, rows])
        bias, hidden = _bias(low[:, rows], high[:, rows], first, last, dtype)
        parts = (side.to(dtype) for side in (q[:, :, rows], k[:, :, first:last], v[:, :, first:last]))
        given = dense_attention(*parts, scale=scale, mask=bias, softcap=softcap, hidden=hidden)
        out[:, :, rows], lse[:, :, rows] = given
    return out, lse


def _stretch(high: torch.Tensor) -> int:
    """Return how many rows run together: few where their ranges end far from each other."""
    if high.shape[1] <= _FAR:
        return _FAR  # also no rows at all
    return _NEAR if int(high.max()) - int(high.min()) <= 2 * high.shape[1] else _FAR


def _bias(
    low: torch.Tensor, high: torch.Tensor, first: int, last: int, dtype: torch.dtype
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return what is added to the scores ``[B, 1, rows, last - first]``, None for nothing, and who sees no key."""
    hidden = (low >= high)[:, None]
    behind, before = bool((high < last).any()), bool((low > first).any())
    if not (behind or before):
        return None, hidden
    keys = torch.arange(first, last, device=low.device)
    bias = torch.zeros(*low.shape, last - first, dtype=dtype, device=low.device)
    if behind:
        bias.masked_fill_(keys >= high[..., None], -torch.inf)
    if before:
        bias.masked_fill_(keys < low[..., None], -torch.inf)
    return bias[:, None], hidden


def _extent(low: torch.Tensor, high: torch.Tensor) -> tuple[int, int]:
    """Return the first key that a row sees, and the end of what any of them sees."""
    if not low.numel():
        return 0, 0
    first = int(low.min())
    return first, max(int(high.max()), first)


def splits(programs: int, keys: int) -> int:
    """Return into how many stretches ``keys`` are cut so that few ``programs`` still keep a GPU busy."""
    return max(1, min(-(-_PROGRAMS // max(1, programs)), keys // _SPLIT))


def _launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    scale: float,
    softcap: float | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, n, width = q.shape
    length, value_width = k.shape[2], v.shape[3]
    cut = splits(batch * heads * triton.cdiv(n, 64), length)
    outs = q.new_empty(cut, batch, heads, n, value_width, dtype=torch.float32 if cut > 1 else dtype)
    lses = q.new_empty(cut, batch, heads, n, dtype=torch.float32)
    low, high = low.to(torch.int32), high.to(torch.int32)

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(n, meta["ROWS"]), batch * heads, cut

    _kernel[grid](
        *(q, k, v, low, high, outs, lses, scale, softcap or 0.0, n, length, triton.cdiv(length, cut)),
        *(heads, heads // k.shape[1], width, value_width, batch),
        *q.stride(), *k.stride(), *v.stride(), *low.stride(), *high.stride(),
        *(softcap is not None, power_of_two(width, 16), power_of_two(value_width, 16)),
        FEW=n <= _FEW,
        WIDE=INTERPRETED,
    )  # fmt: skip
    if cut == 1:
        return outs[0], lses[0]
    out, lse = merge_states(outs, lses, fused=True)
    return out.to(dtype), lse


@tuned(
    [
        {"ROWS": 32, "KEYS": 32, "num_warps": 4, "num_stages": 2},
        {"ROWS": 64, "KEYS": 64, "num_warps": 4, "num_stages": 3},
        {"ROWS": 128, "KEYS": 64, "num_warps": 8, "num_stages": 3},
        {"ROWS": 16, "KEYS": 128, "num_warps": 4, "num_stages": 3},
    ],
    key=["width", "FEW"],
)
@jit
def _kernel(
    q, k, v, low, high, outs, lses, scale, softcap, n, length, stretch,
    heads, groups, width, value_width, batch,
    q_batch, q_head, q_row, q_dim, k_batch, k_head, k_row, k_dim, v_batch, v_head, v_row, v_dim,
    low_batch, low_row, high_batch, high_row,
    SOFTCAP: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr,
    FEW: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    which, part = tl.program_id(1), tl.program_id(2)
    item, head = (which // heads).to(tl.int64), (which % heads).to(tl.int64)
    inside = row < n
    begin = part * stretch
    end = tl.minimum(begin + stretch, length)
    lower = tl.maximum(tl.load(low + item * low_batch + row * low_row, mask=inside, other=end), begin)
    upper = tl.minimum(tl.load(high + item * high_batch + row * high_row, mask=inside, other=0), end)
    dim, value_dim = tl.arange(0, WIDTH), tl.arange(0, VALUE)
    from_q = q + item * q_batch + head * q_head + row.to(tl.int64)[:, None] * q_row + dim[None, :] * q_dim
    query = tl.load(from_q, mask=inside[:, None] & (dim < width)[None, :], other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, VALUE], tl.float32)
    keys_at = k + item * k_batch + (head // groups) * k_head
    values_at = v + item * v_batch + (head // groups) * v_head
    first = tl.min(lower, axis=0) // KEYS * KEYS
    for start in range(first, tl.max(upper, axis=0), KEYS):
        at = start + tl.arange(0, KEYS)
        there = (at >= begin) & (at < end)
        far = at.to(tl.int64)
        key = tl.load(
            keys_at + far[None, :] * k_row + dim[:, None] * k_dim,
            mask=there[None, :] & (dim < width)[:, None], other=0.0,
        )  # fmt: skip
        if WIDE:  # the interpreter multiplies bfloat16 by its bits
            score = tl.dot(query.to(tl.float32), key.to(tl.float32), input_precision="ieee") * scale
        else:
            score = tl.dot(query, key, input_precision="ieee") * scale
        if SOFTCAP:
            score = softcap * (2.0 * tl.sigmoid(2.0 * score / softcap) - 1.0)
        seen = (at[None, :] >= lower[:, None]) & (at[None, :] < upper[:, None])
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(top, tl.max(score, axis=1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp(score - safe[:, None])
        keep = tl.exp(top - safe)
        value = tl.load(
            values_at + far[:, None] * v_row + value_dim[None, :] * v_dim,
            mask=there[:, None] & (value_dim < value_width)[None, :], other=0.0,
        )  # fmt: skip
        if WIDE:
            acc = acc * keep[:, None] + tl.dot(weight, value.to(tl.float32), input_precision="ieee")
        else:
            acc = acc * keep[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        total = total * keep + tl.sum(weight, axis=1)
        top = new
    some = total > 0
    out = acc / tl.where(some, total, 1.0)[:, None]
    slot = ((part * batch + item) * heads + head) * n + row
    place = outs + slot[:, None] * value_width + value_dim[None, :]
    tl.store(place, out.to(outs.dtype.element_ty), mask=inside[:, None] & (value_dim < value_width)[None, :])
    log = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    tl.store(lses + slot, log, mask=inside)
