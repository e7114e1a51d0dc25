"""Blending: K/V of chunks placed at a prompt's positions, some of their rows recomputed in place."""

from __future__ import annotations

from nbkv.families.blend.base import Blend

__all__ = ["Blend"]
