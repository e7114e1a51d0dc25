"""Strategies: one paper, one file, one class. Called, this package lists them: ``nbkv.strategies()``."""

from __future__ import annotations

import sys
from dataclasses import fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbkv.registry import strategies as _registry

if TYPE_CHECKING:
    import pandas as pd


class _Listing(ModuleType):
    """A package that answers a call with the table of what it holds."""

    def __call__(self) -> pd.DataFrame:
        """Return one row a strategy: name, family, paper, exact, options with defaults, and one line about it."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        rows = []
        for name in _registry.names():
            cls: Any = _registry.get(name)
            options = ", ".join(f"{option.name}={option.default!r}" for option in fields(cls))
            rows.append((name, cls.family, cls.paper, cls.exact, options, cls.summary))
        return Frame(rows, columns=["name", "family", "paper", "exact", "options", "summary"])


sys.modules[__name__].__class__ = _Listing
