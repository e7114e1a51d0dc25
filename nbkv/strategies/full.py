"""The reference: every prompt is computed in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbkv.strategy import Strategy


@dataclass(kw_only=True, repr=False)
class Full(Strategy):
    """Full recompute, nothing taken from a store and nothing kept; what every other strategy is measured against."""

    name: ClassVar[str] = "full"
    family: ClassVar[str] = "none"
    summary: ClassVar[str] = "compute the whole prompt; the exact reference"
