"""Distance to full recompute over an answer: how far each next-token distribution moved, and where picks part."""

from __future__ import annotations

from math import isfinite

import torch

from nbkv.result import Fidelity


def kl(full: torch.Tensor, other: torch.Tensor) -> float:
    """Return KL(full || other) in nats of the next-token distributions given by logits ``[V]`` (taken in float64).

    Logits of minus infinity on both sides contribute nothing.
    """
    return float(kl_rows(full[None], other[None])[0])


def kl_rows(full: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(full || other) in nats ``[n]``, float64, of each row of logits ``[n, V]``, as ``kl`` has it."""
    p, q = (torch.log_softmax(logits.to(torch.float64), dim=-1) for logits in (full, other))
    terms = torch.where(p.isneginf(), torch.zeros_like(p), p.exp() * (p - q))
    return terms.sum(dim=-1).clamp(min=0.0)


def scaled_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest ``|got - expected|`` over ``max(1, max|expected|)``, two tensors of one shape, in float32.

    Infinite where a difference is no number, as after an overflow on either side.
    """
    got, expected = got.float(), expected.float()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    return error if isfinite(error) else float("inf")


def fidelity(full: torch.Tensor, other: torch.Tensor, floor: float | None = None) -> Fidelity:
    """Return the distance of ``other`` to ``full``: logits ``[n, V]`` before each of the same ``n`` answer tokens.

    ``floor`` is the KL that full has to itself when its prefill is split elsewhere; None where that is not known.
    """
    distances, parted = kl_rows(full, other), (full.argmax(dim=-1) != other.argmax(dim=-1)).tolist()
    return Fidelity(
        kl=float(distances.mean()),
        kl_max=float(distances.max()),
        top1=1 - sum(parted) / len(parted),
        diverges_at=parted.index(True) if any(parted) else None,
        n=len(parted),
        floor=floor,
    )
