"""Offset: influence's rows run again, and half of their typical change is put on all others. Our own.

What was tried before it, and how it was found, stands in docs/own-method.md; how it fares, in docs/real-text.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nbkv.context import Context, Request
from nbkv.families.blend.base import Blend, blended
from nbkv.families.blend.influence import influential
from nbkv.families.blend.partial import PartialPrefill
from nbkv.families.blend.repair import repaired
from nbkv.families.options import check_share
from nbkv.result import Provenance
from nbkv.strategy import Prefilled

_MOVED = "rows moved by others' changes"


@dataclass(kw_only=True, repr=False)
class Offset(Blend):
    """Recompute the rows that ``influence`` takes, and move a chunk's others by ``repair`` of their typical change.

    In each layer, as each row ``j`` of the recomputed rows ``S`` of a chunk gets ``v_j + d_j`` in place of ``v_j``,
    every other row of that chunk moves by ``repair * sum_j (d_j / |d_j|) / sum_j (1 / |d_j|)``, head by head, and its
    key likewise, the changes of keys turned to one position first and to its own afterwards. It costs no row and no
    pass. With ``repair=0`` it is ``influence``; with all rows recomputed there is nothing to move.
    """

    name: ClassVar[str] = "offset"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "recompute influence's tokens, move the others by half of their typical change"

    needs: ClassVar[tuple[str, ...]] = (*Blend.needs, "attention")

    budget: float = 0.15
    repair: float = 0.5

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for shares out of range."""
        super().__post_init__()
        check_share(self, "repair")

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return the rows with the highest attention times value norm."""
        return influential(partial, self.budget)

    def run(self, partial: PartialPrefill, chosen: torch.Tensor) -> torch.Tensor:
        """Run the rows ``chosen`` and all without KV, and repair the others; return the last token's logits ``[V]``."""
        with repaired(partial, chosen, self.repair) as moved:
            partial.found[_MOVED] = moved
            return super().run(partial, chosen)

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Blend, and say of the rows that were moved that they are reused and corrected."""
        prefilled = super().prefill(request, ctx)
        if (partial := blended(prefilled)) is not None and _MOVED in partial.found:
            sources, moved = prefilled.provenance, partial.found[_MOVED].cpu().numpy()
            sources[moved[sources[moved] == Provenance.CHUNK]] = Provenance.CORRECTED
        return prefilled
