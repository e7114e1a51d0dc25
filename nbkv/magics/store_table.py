"""What ``%kvstore`` shows: the store's own table, whose sizes are shown as people read them and stay numbers."""

from __future__ import annotations

from math import isnan
from typing import Any

import pandas as pd

from nbkv.show import table_html, table_text
from nbkv.show.page import view
from nbkv.show.units import count, share, size

BYTES = {"bytes", "state_bytes", "limit"}  # columns
STATES = {"checkpoints", "state_bytes"}  # columns that say something of models with recurrent layers only


class StoreTable(pd.DataFrame):
    """A DataFrame that shows bytes as kB, MB and GB."""

    def __repr__(self) -> str:
        """Return the table as text."""
        return table_text(*self._shown())

    def _repr_html_(self) -> str:
        columns, rows = self._shown()
        return view(table_html(columns, rows), "store")

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        told = self[[name for name in self.columns if name not in STATES or self[name].any()]]
        columns = [str(name) for name in told.columns]
        return columns, [
            [_cell(name, value) for name, value in zip(columns, row, strict=True)]
            for row in told.itertuples(index=False, name=None)
        ]


def _cell(column: str, value: Any) -> str:  # noqa: ANN401  (any cell)
    if isinstance(value, float) and isnan(value):
        return ""
    if column == "limit" and not value:
        return "none"
    if column in BYTES:
        return size(value)
    if column == "error":
        return share(value) if value else ""
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
