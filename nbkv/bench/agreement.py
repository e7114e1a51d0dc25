"""Whether a candidate gives the baseline's answer, by the house's rule of exactness: without that, no figures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbkv.bench.models import Bench

DRAWS = 8
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
    many tokens win by; exact then means as good as a prefill split at the same place, and that is the reference. The
    model's own noise floor, how far the same tokens' logits lie apart when plain transformers computes the prompt in
    one piece, or with one cut more at an odd place (rows at the end of a pass go through other kernels than those in
    the middle), is what is allowed there where it exceeds the rounding of one logit.
    """
    odd = sorted({split // 4 * 2 + 1, split})
    cuts: list[list[int]] = [[]] if model.dtype == torch.float32 else [[split], [], odd]
    caches = [DynamicCache(config=model.config) for _ in cuts]
    prompt = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        for places, cache in zip(cuts, caches, strict=True):
            for begin, end in pairwise((0, *places)):
                model(prompt[:, begin:end], past_key_values=cache, logits_to_keep=1)
        step, tolerance = prompt, 0.0
        tokens: list[int] = []
        gaps: list[float] = []
        for _ in range(n):
            logits = [_next(model, step, cache, prompt.shape[1] + len(tokens)) for cache in caches]
            one_logit = ROUNDING[model.dtype] * max(1.0, float(logits[0].abs().max()))
            tolerance = max(tolerance, one_logit, *(float((logits[0] - other).abs().max()) for other in logits))
            best = logits[0].topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            step = best.indices[None, :1]
    return Reference(tuple(tokens), tuple(gaps), tolerance)


def decided(bench: Bench, base: list[int], new: int, n: int, seed: int = 2) -> tuple[list[int], Reference]:
    """Return ``base`` with ``new`` tokens behind it that transformers answers decidedly, and that answer of ``n``.

    Of ``DRAWS`` draws, with the seeds from ``seed`` on; the last one where none is decided.
    """
    for draw in range(DRAWS):
        ids = base + bench.ids(new, seed=seed + draw)
        wanted = reference(bench.model, ids, n, split=len(base))
        if wanted.decisive:
            break
    return ids, wanted


def _next(model: Any, step: torch.Tensor, cache: DynamicCache, upto: int) -> torch.Tensor:  # noqa: ANN401  (as above)
    """Return the logits ``[vocab]`` after ``upto`` tokens, of which ``step`` ends with those ``cache`` has not seen."""
    unseen = upto - cache.get_seq_length()
    logits: torch.Tensor = model(step[:, -unseen:], past_key_values=cache, logits_to_keep=1).logits
    return logits[0, -1].float()
