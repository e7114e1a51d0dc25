"""Eviction of K/V: cache slots of the least important tokens are dropped for good."""

from __future__ import annotations

from nbkv.families.evict.base import Evict

__all__ = ["Evict"]
