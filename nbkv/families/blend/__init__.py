"""Chunks put where a prompt wants them, and some of their rows run again in place."""

from __future__ import annotations

from nbkv.families.blend.base import Blend

__all__ = ["Blend"]
