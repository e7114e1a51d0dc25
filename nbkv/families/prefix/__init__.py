"""The longest stored prefix is continued in place."""

from __future__ import annotations

from nbkv.families.prefix.base import Prefix, encode, held

__all__ = ["Prefix", "encode", "held"]
