"""Distance to full recompute: how far the next-token distribution moved, and whether the same tokens would follow."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch

from nbkv.result import Fidelity


def kl(full: torch.Tensor, other: torch.Tensor) -> float:
    """Return KL(full || other) in nats of the next-token distributions given by logits ``[V]`` (taken in float64).

    Logits of minus infinity on both sides contribute nothing.
    """
    p, q = (torch.log_softmax(logits.to(torch.float64), dim=-1) for logits in (full, other))
    terms = torch.where(p.isneginf(), torch.zeros_like(p), p.exp() * (p - q))
    return max(0.0, float(terms.sum()))


def scaled_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest ``|got - expected|`` over ``max(1, max|expected|)``, two tensors of one shape, in float32.

    Infinite where a difference is no number, as after an overflow on either side.
    """
    got, expected = got.float(), expected.float()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return error if isfinite(error) else float("inf")


def top1(full: Sequence[int], other: Sequence[int]) -> float:
    """Return the share of positions at which ``other`` picks full's greedy token; 1.0 for none."""
    if len(full) != len(other):
        message = f"top1 compares equally many tokens, got {len(full)} and {len(other)}"
        raise ValueError(message)
    return sum(a == b for a, b in zip(full, other, strict=True)) / len(full) if full else 1.0


def fidelity(full: tuple[torch.Tensor, Sequence[int]], other: tuple[torch.Tensor, Sequence[int]]) -> Fidelity:
    """Return the distance of ``other`` to ``full``, each given as next-token logits ``[V]`` and picked tokens."""
    return Fidelity(kl=kl(full[0], other[0]), top1=top1(full[1], other[1]), n=len(full[1]))
