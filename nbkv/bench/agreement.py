"""Whether a candidate gives the baseline's answer, by the house's rule of exactness: without that, no figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@dataclass(frozen=True)
class Reference:
    """A greedy answer of plain transformers, how clearly each token won, and what rounding may do to a logit."""

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


def reference(model: Any, ids: Sequence[int], n: int, split: int) -> Reference:  # noqa: ANN401  (transformers models are typed in part)
    """Decode ``n`` tokens after ``ids`` by hand in plain transformers; ``split`` is where a cached prefix would end.

    In fp32 the prompt is computed in one piece. In half precision splitting it already changes the logits by more than
    many tokens win by; exact then means as good as a prefill split at the same place, and that is the reference.
    """
    prompt = torch.tensor([list(ids)], device=model.device)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        if model.dtype != torch.float32:
            model(prompt[:, :split], past_key_values=cache, logits_to_keep=1)
        step, tokens, gaps, tolerance = prompt[:, cache.get_seq_length() :], [], [], 0.0
        for _ in range(n):
            logits = model(step, past_key_values=cache, logits_to_keep=1).logits[0, -1].float()
            tolerance = max(tolerance, ROUNDING[model.dtype] * max(1.0, float(logits.abs().max())))
            best = logits.topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            step = best.indices[None, :1]
    return Reference(tuple(tokens), tuple(gaps), tolerance)
