"""Write docs/performance.md from the figures in docs/tables/bench.json: ``python -m nbkv.bench.report``."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

FIGURES, PAGE = Path("docs/tables/bench.json"), Path("docs/performance.md")
_HEAD = """# Performance on a CPU

Made by `make tables`: `nbkv bench NAME… --json docs/tables/bench.json`, then `python -m nbkv.bench.report`. Candidates
take turns in one process; figures are medians after a warm-up, and only of candidates whose outputs were first found to
agree. The *floor* is the bare forwards that have to be run. Kernels on a GPU:
[kernels/README.md](../kernels/README.md).
"""
_TARGETS = {
    "ttft.prefix": "at most 1.10 x the floor, not slower than a copied cache",
    "ttft.chunks": "at most 1.15 x the floor; `cacheblend(0.15)` above 3.3 x, its paper's best",
    "ttft.restart": "at most 1.15 x the floor, which is the same request with its K/V in memory plus the loading alone",
    "ttft.tiers": "at most 1.10 x the floor, which is the longer of loading alone and of the same request in memory",
    "decode.tpot": "at most 0.95 x the baseline",
    "batch.prefix": "at most 1.25 x the floor; the shared prefix held once",
    "overhead": "at most 10 ms",
    "import": "less than 100 ms for the package, less than 300 ms for the magics",
    "store.io": "at most 1.25 x the baseline",
    "store.scale": "flat",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(FIGURES.read_text())))


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page for ``rows`` as ``nbkv bench --json`` writes them."""
    parts = [_HEAD]
    for name, some in groupby(rows, key=lambda row: str(row["name"])):
        parts.append(_section(name, list(some)))
    return "\n".join(parts)


def _section(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"## {name}", ""]
    if name in _TARGETS:
        lines += [f"Target: {_TARGETS[name]}.", ""]
    for regime, some in groupby(rows, key=lambda row: row["regime"]):
        lines += [", ".join(f"{what} {value}" for what, value in regime.items()) + ".", ""]
        lines += ["| ours | ms | against | ms | ratio | x floor |", "| --- | ---: | --- | ---: | ---: | ---: |"]
        lines += list(map(_line, told := list(some)))
        lines += ["", *(f"- {_about(row)}{note}" for row in told for note in _notes(row))]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: dict[str, Any]) -> str:
    ours, baseline = (_ms(row[side]) for side in ("ours", "baseline"))
    ratio, floor = ("–" if row[what] is None else f"{row[what]:.3f}" for what in ("ratio", "floor_ratio"))
    return f"| {row['strategy'] or 'nbkv'} | {ours} | {row['against']} | {baseline} | {ratio} | {floor} |"


def _notes(row: dict[str, Any]) -> list[str]:
    refused = [f"refused: {row['refused']}"] if row["refused"] else []
    missing = [f"not measured: {row['missing']}"] if row["missing"] else []
    return [*row["notes"], *refused, *missing]


def _about(row: dict[str, Any]) -> str:
    return f"`{row['strategy']}`: " if row["strategy"] else f"{row['against']}: "


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:,.1f}" if seconds >= 1e-3 else f"{seconds * 1e3:.4f}"  # noqa: PLR2004  (a millisecond)


if __name__ == "__main__":
    main()
