"""The tables a user gets are pandas frames; these are also drawn as our views are: texts are no formulas, rows low.

What is made of one by pandas (a selection, a join) is one as well.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from nbkv.show.page import view
from nbkv.show.units import UNKNOWN, cut, plural

ROWS = 40  # drawn; of longer frames the first and the last half of them
CELL = 60  # characters of a text; hovering tells all of it
TOLD = 600


class Frame(pd.DataFrame):
    """A ``pandas.DataFrame`` in all but how a notebook draws it."""

    @property
    def _constructor(self) -> type[Frame]:
        return Frame

    def _repr_html_(self) -> str:
        rows, half = len(self), ROWS // 2
        picked = list(range(rows)) if rows <= ROWS else [*range(half), *range(rows - half, rows)]
        numbers = [pd.api.types.is_numeric_dtype(kind) for kind in self.dtypes]
        head = "".join(_cell("th", str(name), left=not numeric) for name, numeric in self._named(numbers))
        lines = []
        for at in picked:
            values = zip(self.iloc[at].tolist(), numbers, strict=True)
            cells = "".join(_cell("td", _word(value), left=not numeric) for value, numeric in values)
            lines.append(f"<tr>{_cell('th', str(self.index[at]), left=False)}{cells}</tr>")
        if rows > ROWS:
            lines.insert(
                half, f'<tr><td class="nbkv-dim" colspan="{len(numbers) + 1}">… {rows - ROWS:,} more …</td></tr>'
            )
        shape = f'<p class="nbkv-dim">{plural(rows, "row")}, {plural(len(numbers), "column")}</p>'
        body = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        return view(f'<div class="nbkv-scroll" style="overflow-x:auto">{body}</div>{shape}', "frame")

    def _named(self, numbers: list[bool]) -> list[tuple[Any, bool]]:
        return list(zip(self.columns, numbers, strict=True))


def _word(value: object) -> str:
    """Return a value as people read it; what is missing is a dash."""
    if isinstance(value, float):
        return UNKNOWN if value != value else f"{value:.4g}"  # noqa: PLR0124  (nan)
    return UNKNOWN if value is None else str(value)


def _cell(tag: str, text: str, *, left: bool) -> str:
    line = " ".join(text.split())
    told = f' title="{escape(cut(text, TOLD))}"' if len(line) > CELL else ""
    side = "left" if left else "right"
    return f'<{tag}{told} style="text-align:{side};white-space:nowrap">{escape(cut(line, CELL))}</{tag}>'
