"""The tables a user gets are pandas frames; these are also drawn as our views are: texts are no formulas, rows low.

A frame that is wider than its place becomes a list: each row a few lines in which every value has its name. What is
made of one by pandas (a selection, a join) is drawn alike.
"""

from __future__ import annotations

from html import escape

import pandas as pd

from nbkv.scalars import is_number
from nbkv.show.page import fitting, table_width, view
from nbkv.show.units import UNKNOWN, cut, plural, size

ROWS = 40  # drawn; of longer frames the first and the last half of them
CELL = 60  # characters of a text; a longer one is folded
TOLD = 600


class Frame(pd.DataFrame):
    """A ``pandas.DataFrame`` in all but how a notebook draws it."""

    @property
    def _constructor(self) -> type[Frame]:
        return Frame

    def _repr_html_(self) -> str:
        rows, half = len(self), ROWS // 2
        picked = list(range(rows)) if rows <= ROWS else [*range(half), *range(rows - half, rows)]
        names = [str(name) for name in self.columns]
        sides = ["right" if pd.api.types.is_numeric_dtype(kind) else "left" for kind in self.dtypes]
        sizes = [name.endswith("bytes") or (name == "limit" and "bytes" in names) for name in names]
        texts = [[str(self.index[at]), *map(_word, self.iloc[at].tolist(), sizes)] for at in picked]
        lines = [_row(line, names, sides) for line in texts]
        if rows > ROWS:
            lines.insert(
                half, f'<tr><td class="nbkv-dim" colspan="{len(names) + 1}">… {rows - ROWS:,} more …</td></tr>'
            )
        head = "".join(
            f'<th style="text-align:{side}">{escape(name)}</th>' for name, side in zip(names, sides, strict=True)
        )
        width = table_width([["", *names], *texts], CELL + 2)
        body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        table = f'<table class="nbkv-fits-{width}">{body}</table>'
        shape = f'<p class="nbkv-dim">{plural(rows, "row")}, {plural(len(names), "column")}</p>'
        unfolding = (
            ".nbkv td details{display:inline-block;vertical-align:top;margin:0;text-align:left}"
            f"@container (max-width:{width}px){{.nbkv-fits-{width} td{{white-space:normal!important}}}}"
        )
        rules = f"<style>{fitting(f'nbkv-fits-{width}', width)}{unfolding}</style>"
        return view(f'{rules}<div class="nbkv-scroll" style="overflow-x:auto">{table}</div>{shape}', "frame")


def _row(texts: list[str], names: list[str], sides: list[str]) -> str:
    cells = zip(texts[1:], names, sides, strict=True)
    return f'<tr><th style="text-align:right">{escape(texts[0])}</th>{"".join(_cell(*cell) for cell in cells)}</tr>'


def _cell(text: str, name: str, side: str) -> str:
    none = ' class="nbkv-none"' if text in {UNKNOWN, ""} else ""
    return f'<td{none} data-name="{escape(name)}" style="text-align:{side};white-space:nowrap">{_folded(text)}</td>'


def _folded(text: str) -> str:
    """Return ``text`` on one line; what is longer than a cell unfolds."""
    if len(text) <= CELL:
        return escape(text)
    whole = f'<div style="white-space:normal;max-width:34em;overflow-wrap:anywhere">{escape(cut(text, TOLD))}</div>'
    return f"<details><summary>{escape(cut(text, CELL))}</summary>{whole}</details>"


def _word(value: object, is_size: bool) -> str:  # noqa: FBT001  (as its column is)
    """Return a value as people read it, on one line; what is missing is a dash."""
    if is_size and is_number(value) and value == value:  # noqa: PLR0124  (nan)
        return size(float(value))
    if isinstance(value, float):
        return UNKNOWN if value != value else f"{value:.4g}"  # noqa: PLR0124  (nan)
    return UNKNOWN if value is None else " ".join(str(value).split())
