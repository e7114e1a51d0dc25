"""The files beside a report: the table as CSV and Parquet and for a paper (LaTeX, Markdown), the figure as PNG."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from nbkv.sweep.page.columns import described, written
from nbkv.sweep.page.quantity import said, unit_of

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.show.drawing import Drawing
    from nbkv.sweep.runs import Sweep

PARQUET = ("pyarrow", "fastparquet")  # what pandas writes it with


def write_downloads(sweep: Sweep, names: list[str], figure: Drawing | None) -> dict[str, str]:
    """Write the files into the sweep's folder; return what each is called and its name, or why it is not there."""
    frame, short, units = written(sweep), paper_table(sweep, names), sweep.units
    frame.to_csv(sweep.results, index=False)
    found = {"CSV": sweep.results.name}
    if any(find_spec(library) for library in PARQUET):
        frame.attrs = {"units": {name: unit for name in frame.columns if (unit := unit_of(name, units))}}
        frame.to_parquet(sweep.folder / "results.parquet", index=False)
        found["Parquet"] = "results.parquet"
    described(frame, units).to_csv(sweep.folder / "columns.csv", index=False)
    found["Columns and units"] = "columns.csv"
    (sweep.folder / "table.tex").write_text(short.to_latex(index=False, escape=True), encoding="utf-8")
    (sweep.folder / "table.md").write_text(markdown(short), encoding="utf-8")
    found |= {"LaTeX table": "table.tex", "Markdown table": "table.md"}
    if figure is not None:
        figure.save(str(sweep.folder / "figure.png"))
        found["PNG figure"] = "figure.png"
    return found


def paper_table(sweep: Sweep, names: list[str]) -> pd.DataFrame:
    """Return a row a run: what it is called, and the plain numbers and words that it recorded, with units."""
    import pandas as pd  # noqa: PLC0415  (only for tables)

    rows = []
    for run, name in zip(sweep.runs, names, strict=True):
        plain = {key: value for key, value in run.records.items() if not isinstance(value, dict | list)}
        rows.append({"run": name} | {_named(key, sweep.units): said(value) for key, value in plain.items()})
    return pd.DataFrame(rows).fillna("")


def markdown(frame: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = [[*map(str, frame.columns)], ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _named(name: str, units: dict[str, str]) -> str:
    unit = unit_of(name, units)
    return f"{name} [{unit}]" if unit else name
