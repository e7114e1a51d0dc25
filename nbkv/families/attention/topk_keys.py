"""Which keys before a block its rows attend to most, head by head: the selection of a sparse attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nbkv.models.attention.layer import Attention


@dataclass(frozen=True, eq=False)
class TopKeys:
    """The ``N`` picked keys and values ``[1, H_k, N, D]`` of one layer, and bool ``[1, H_q, 1, T]``: the other keys."""

    key: torch.Tensor
    value: torch.Tensor
    rest: torch.Tensor


def pick(attention: Attention, density: float) -> TopKeys:
    """Return the share ``density`` of the keys outside that each K/V head's queries attend to most, summed over rows.

    At least one key; the weights are those of the whole attention, the block's own keys included.
    """
    _, heads, length, _ = attention.key.shape
    outside, groups = attention.outside, attention.query.shape[1] // heads
    weights = _weights(attention).reshape(heads, -1, length)[..., :outside].sum(dim=1)
    best = weights.topk(max(1, math.ceil(density * outside)), dim=-1).indices.sort(dim=-1).values
    rest = torch.ones(heads, outside, dtype=torch.bool, device=best.device).scatter_(1, best, value=False)
    key, value = (_gathered(side, best) for side in (attention.key, attention.value))
    return TopKeys(key, value, rest.repeat_interleave(groups, dim=0)[None, :, None])


def _weights(attention: Attention) -> torch.Tensor:
    """Return the softmax weights ``[H_k, groups * n, T]``, sinks left out."""
    key = attention.key[0].float()
    query = attention.query[0].float().reshape(key.shape[0], -1, key.shape[-1])
    scores = query @ key.transpose(-1, -2) * attention.scale
    if attention.softcap is not None:
        scores = torch.tanh(scores / attention.softcap) * attention.softcap
    return scores.softmax(dim=-1)


def _gathered(side: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return side.gather(2, best[None, :, :, None].expand(-1, -1, -1, side.shape[-1]))
