"""A loaded model with its store and strategy, and every way of asking it for something."""

from __future__ import annotations

from nbkv.session.session import Session, load

__all__ = ["Session", "load"]
