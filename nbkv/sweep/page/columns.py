"""The columns of the written tables: each of one type in every file, with its unit, and what each row was made with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbkv.sweep.page.quantity import flat, said, unit_of

if TYPE_CHECKING:
    from nbkv.sweep.runs import Sweep

MACHINE = "machine"
_INT64 = 2**63  # what 64 bits hold


def written(sweep: Sweep) -> pd.DataFrame:
    """Return one row a run as the files have it: what is nested in columns of its own, then the machine's columns.

    Types depend on values only, not on which runs there are: ``boolean``, ``Int64`` and ``string`` where nothing but
    these was recorded (a run without it has none), ``float64`` for other numbers, and text for everything else, lists
    as JSON. The machine's columns are its versions, device and commit.
    """
    rows = []
    for row, run in zip(sweep.rows(), sweep.runs, strict=True):
        rows.append(flat(row) | {f"{MACHINE}.{name}": value for name, value in run.machine.items()})
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _typed([row.get(name) for row in rows]) for name in names})


def described(frame: pd.DataFrame, units: dict[str, str]) -> pd.DataFrame:
    """Return a row a column of ``frame``: its name, type and unit."""
    told = [(name, str(frame[name].dtype), unit_of(str(name), units)) for name in frame.columns]
    return pd.DataFrame(told, columns=["column", "type", "unit"])


def _typed(values: Sequence[Any]) -> pd.Series:
    """Return a column; None stands for what a run does not have."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean")
    if kinds and kinds <= {int, float} and not any(isinstance(value, int) and _is_long(value) for value in values):
        return pd.Series(values, dtype="Int64" if kinds == {int} else "float64")
    return pd.Series([_text(value) for value in values], dtype="string")


def _is_long(value: int) -> bool:
    return not -_INT64 <= value < _INT64


def _text(value: Any) -> str | None:  # noqa: ANN401  (a cell of a table)
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value) if isinstance(value, list | tuple) else said(value)
    except TypeError:  # dicts inside with other keys than texts
        return said(value)
