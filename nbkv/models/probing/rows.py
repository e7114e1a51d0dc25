"""Proves that scattered rows of a prompt can be run again: under a mask, watched, and over ranges of keys."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.intercept import watched
from nbkv.models.attention.layer import Attended
from nbkv.models.caches.growing import GrowingCache
from nbkv.show.units import plural

_SOFTMAX_TOLERANCE = 1e-3  # weights choose rows, they are no part of any output


@dataclass(eq=False)
class RowTrial:
    """Every third of the tokens ``ids`` ``[n]``, run again over ``cache``, which holds them all.

    ``expected`` ``[n, V]`` are the model's own logits, ``limit`` the scaled error allowed.
    """

    adapter: ModelAdapter
    ids: torch.Tensor
    cache: GrowingCache
    expected: torch.Tensor
    limit: float

    def __post_init__(self) -> None:
        """Choose the rows."""
        self.rows = torch.arange(1, len(self.ids), 3, device=self.ids.device)

    def why_not(self) -> str:
        """Return why rows cannot be run again by their positions; empty if they give the model's own logits."""
        try:
            error = self._error(self.adapter)
        except Exception as refusal:  # noqa: BLE001  (a family may refuse a mask in any way; the reason is told)
            return f"rows of a prompt cannot be run again ({type(refusal).__name__})"
        if error > self.limit:
            return f"rows of a prompt run again give other logits, by {error:.1e} (limit {self.limit:.1e})"
        return ""

    def why_no_ranges(self) -> str:
        """Return why attention is not computed by us, over ranges of keys; empty if rows are right that way."""
        known = replace(self.adapter.capabilities, ranges=True)
        try:
            error = self._error(replace(self.adapter, capabilities=known))
        except Exception as refusal:  # noqa: BLE001  (as above)
            return f"its attention cannot be computed over ranges ({type(refusal).__name__})"
        return "" if error <= self.limit else f"over ranges of keys its logits differ by {error:.1e}"

    def why_no_attention(self) -> str:
        """Return why attention weights cannot be observed; empty if they were, and give each layer's own output."""
        errors: dict[int, float] = {}

        def compare(attended: Attended) -> None:
            groups = attended.weights.shape[0] // attended.values.shape[0]
            values = attended.values.float().repeat_interleave(groups, dim=0)
            error = scaled_error((attended.weights @ values).transpose(0, 1), attended.output)
            errors[attended.layer] = max(error, errors.get(attended.layer, 0.0))

        try:
            with watched(self.adapter.config, torch.arange(len(self.rows), device=self.rows.device), compare):
                self.adapter.recompute(self.ids[self.rows], self.rows, self.cache)
        except Exception as refusal:  # noqa: BLE001  (as above)
            return f"its attention cannot be watched ({type(refusal).__name__})"
        if len(errors) != self.adapter.n_layers:
            return f"its attention shows itself in {len(errors)} of {plural(self.adapter.n_layers, 'layer')}"
        worst = max(errors.values())
        return "" if worst <= max(self.limit, _SOFTMAX_TOLERANCE) else f"its attention weights are off by {worst:.1e}"

    def _error(self, adapter: ModelAdapter) -> float:
        logits = adapter.recompute(self.ids[self.rows], self.rows, self.cache, keep=len(self.rows))
        return scaled_error(logits, self.expected[self.rows])
