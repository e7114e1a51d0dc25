"""Whether a candidate gives the baseline's answer, by the house's rule of exactness: without that, no figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

if TYPE_CHECKING:
    from collections.abc import Sequence

FP32 = 1e-4


@dataclass(frozen=True)
class Reference:
    """The greedy answer of a full prefill, how clearly each token won, and the error a split prefill makes anyway."""

    tokens: tuple[int, ...]
    gaps: tuple[float, ...]
    tolerance: float

    @property
    def decisive(self) -> int:
        """Return how many tokens from the first on won by more than twice the tolerance."""
        return next((at for at, gap in enumerate(self.gaps) if gap < 2 * self.tolerance), len(self.gaps))

    def differs(self, tokens: Sequence[int]) -> str:
        """Return why ``tokens`` is another answer, or "" when it agrees wherever this one is decisive."""
        if self.decisive == 0:
            return "the reference decides no token clearly: nothing to compare"
        for at, (mine, theirs) in enumerate(zip(self.tokens[: self.decisive], tokens, strict=False)):
            if mine != theirs:
                return f"token {at} is {theirs} where the reference gives {mine}"
        if len(tokens) < self.decisive:
            return f"{len(tokens)} tokens where the reference gives {self.decisive}"
        return ""


def reference(model: Any, ids: Sequence[int], n: int, split: int) -> Reference:  # noqa: ANN401
    """Decode ``n`` tokens after ``ids`` by hand in plain transformers; ``split`` is where a cached prefix would end."""
    prompt = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        logits = model(prompt, past_key_values=cache).logits[0, -1].float()
        tolerance = FP32 * max(1.0, float(logits.abs().max()))
        if model.dtype != torch.float32:
            tolerance = max(tolerance, float((logits - _split(model, prompt, split)).abs().max()))
        tokens, gaps = [], []
        for _ in range(n):
            best = logits.topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            step = torch.tensor([[tokens[-1]]], device=model.device)
            logits = model(step, past_key_values=cache).logits[0, -1].float()
    return Reference(tuple(tokens), tuple(gaps), tolerance)


def _split(model: Any, prompt: torch.Tensor, split: int) -> torch.Tensor:  # noqa: ANN401
    cache = DynamicCache(config=model.config)
    model(prompt[:, :split], past_key_values=cache)
    logits: torch.Tensor = model(prompt[:, split:], past_key_values=cache).logits
    return logits[0, -1].float()
