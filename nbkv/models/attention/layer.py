"""What one layer attends with, and what watched rows of it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nbkv.ops import State, partial_attention


@dataclass(frozen=True, eq=False)
class Attended:
    """What some watched rows did in one layer.

    ``rows`` ``[n]`` are indices among the rows of the pass, ``weights`` float32 ``[H_q, n, T]``, ``values``
    ``[H_v, T, D]`` those of all keys, ``output`` ``[n, H_q, D]`` what the attention function returned for the rows.
    """

    layer: int
    rows: torch.Tensor
    weights: torch.Tensor
    values: torch.Tensor
    output: torch.Tensor


@dataclass(frozen=True, eq=False)
class Attention:
    """What one layer is about to attend with, in a pass over the last rows of a sequence.

    ``query`` ``[1, H_q, n, D]``, ``key`` ``[1, H_k, T, D]``, ``value`` ``[1, H_v, T, D_v]``: the last ``n`` keys are
    those of the rows themselves. ``softcap`` and ``sinks`` ``[H_q]`` as in ``nbkv.ops.partial_attention``.
    """

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def outside(self) -> int:
        """Return how many keys come before those of the rows themselves."""
        return self.key.shape[-2] - self.query.shape[-2]

    def to(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        query: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> State:
        """Return ``(out, lse)`` of the attention of all rows, or of ``query``, to given keys; sinks are not counted."""
        query = self.query if query is None else query
        return partial_attention(query, key, value, scale=self.scale, mask=mask, softcap=self.softcap)

    def inside(self) -> State:
        """Return ``(out, lse)`` of the attention of the rows to each other, sinks counted."""
        key, value = self.key[:, :, self.outside :], self.value[:, :, self.outside :]
        return partial_attention(self.query, key, value, scale=self.scale, softcap=self.softcap, sinks=self.sinks)


# Gives the output [1, H_q, n, D_v] of a layer's attention, or None to have the model's own function compute it.
Policy = Callable[[Attention], torch.Tensor | None]
