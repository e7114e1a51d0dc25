"""Write the table of kernels/README.md from the newest committed figures: `python kernels/bench/table.py [--check]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_README = _HERE.parent / "README.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
_NAMES = {"copy_gbs": "copy", "gemm_tflops": "GEMM", "sdpa_tflops": "SDPA-flash"}


def main() -> None:
    """Write the table, or with ``--check`` fail if the one in the README is another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = _README.read_text()
    head, rest = text.split(_BEGIN)
    fresh = f"{head}{_BEGIN}\n{table()}\n{_END}{rest.split(_END)[1]}"
    if not options.check:
        _README.write_text(fresh)
    elif fresh != text:
        raise SystemExit("kernels/README.md is not what `python kernels/bench/table.py` writes")  # noqa: EM101, TRY003


def table() -> str:
    """Return the newest timed figures as Markdown; a line that says so if nothing was timed yet."""
    files = [json.loads(path.read_text()) for path in sorted((_HERE / "results").glob("*.json"))]
    timed = [found for found in files if found.get("timed")]
    if not timed:
        return "Not measured: no GPU has run `python kernels/bench/run.py` yet."
    found = max(timed, key=lambda each: str(each["date"]))
    tops = ", ".join(f"{_NAMES[name]} {value:,.0f} {name.split('_')[1]}" for name, value in found["ceilings"].items())
    lines = [
        f"{found['device']}, {found['dtype']}, torch {found['torch']}, {found['date']}; ceilings of this run: {tops}.",
        "",
        "| kernel | on | ms | of its ceiling | target | against |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(_line(row) for row in found["rows"]),
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    against = ", ".join(f"{name} {value:.1f}x" for name, value in row["times"].items())
    share = f"{row['of_ceiling']:.0%} of {_NAMES[row['ceiling']]}"
    target = f"{row['target']:.0%}" if row["target"] else ", ".join(f"{v}x" for v in row["least_times"].values())
    return f"| `{row['kernel']}` | {row['regime']} | {row['seconds'] * 1e3:.3f} | {share} | {target} | {against} |"


if __name__ == "__main__":
    main()
