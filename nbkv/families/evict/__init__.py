"""K/V that is dropped for good."""

from __future__ import annotations

from nbkv.families.evict.base import Evict

__all__ = ["Evict"]
