"""Request logs, replayed through stores that hold no tensors: what a cache of which size and policy would have hit."""

from __future__ import annotations

from nbkv.traces.simulated_tier import LowerTier
from nbkv.traces.simulation import Replay, replay

__all__ = ["LowerTier", "Replay", "replay"]
