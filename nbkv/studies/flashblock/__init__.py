"""FlashBlock's price in answers: the comparison, its table, which can be made in slices, and its page."""

from __future__ import annotations

from nbkv.studies.flashblock.comparison import FULL, TAUS, measure, sparse

__all__ = ["FULL", "TAUS", "measure", "sparse"]
