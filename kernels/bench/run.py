"""Measure the kernels: `python kernels/bench/run.py [--json FILE] [--scale N]`.

On a GPU Triton is timed. Without one, under TRITON_INTERPRET=1, every case still runs and is checked, and nothing is
timed: the interpreter's seconds say nothing.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cases import Case, cases
from ceilings import ceilings
from clock import seconds
from nbkv_kernels import runs_on

_LIMIT = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def main() -> None:
    """Check and time every case, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--scale", type=int, default=0, help="divide lengths by this (default: 1 on a GPU, 512 else)")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed = device.type == "cuda"
    dtype, scale = (torch.bfloat16 if timed else torch.float32), options.scale or (1 if timed else 512)
    if not runs_on(torch.empty(0, device=device)):
        parser.error("needs a CUDA device with Triton, or TRITON_INTERPRET=1 to check without timing")
    torch.manual_seed(0)
    tops = ceilings(device, dtype, scale) if timed else {}
    rows = [_row(case, device, dtype, tops) for case in cases(device, dtype, scale)]
    found = {
        "device": torch.cuda.get_device_name() if timed else "Triton's interpreter",
        "date": datetime.now(UTC).date().isoformat(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "timed": timed,
        "ceilings": tops,
        "rows": rows,
    }
    for row in rows:
        print(json.dumps(row))  # noqa: T201
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _row(case: Case, device: torch.device, dtype: torch.dtype, tops: dict[str, float]) -> dict[str, Any]:
    error = max(_error(one, other) for one, other in zip(case.ours(True), case.ours(False), strict=True))  # noqa: FBT003
    if not error < _LIMIT[dtype]:
        message = (
            f"{case.kernel} is not timed: it differs from its reference by {error:.1e} (limit {_LIMIT[dtype]:.0e})"
        )
        raise SystemExit(message)
    row: dict[str, Any] = {"kernel": case.kernel, "regime": case.regime, "error": error, "target": case.share}
    if not tops:
        return row
    took = seconds({"ours": lambda: case.ours(True)} | case.baselines, device)  # noqa: FBT003
    unit = 1e9 if case.ceiling == "copy_gbs" else 1e12
    rate = case.work / took["ours"] / unit
    times = {name: took[name] / took["ours"] for name in case.baselines}
    met = rate / tops[case.ceiling] >= case.share and all(times[name] >= least for name, least in case.times.items())
    return row | {
        "seconds": took["ours"],
        "ceiling": case.ceiling,
        "rate": rate,
        "of_ceiling": rate / tops[case.ceiling],
        "times": times,
        "least_times": case.times,
        "met": met,
    }


def _error(one: torch.Tensor, other: torch.Tensor) -> float:
    gap = (one.float() - other.float()).abs().max()
    return float(gap / other.float().abs().max().clamp(min=1.0))


if __name__ == "__main__":
    main()
