"""``import``: what ``import nbkv`` adds to starting Python, and ``%load_ext nbkv`` to starting IPython."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import partial

from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved

NAME = "import"
_SHELL = "from IPython.core.interactiveshell import InteractiveShell as S; shell = S.instance()"
_PAIRS = {
    "bare python": ("pass", "import nbkv"),
    "bare IPython": (_SHELL, f"{_SHELL}; shell.run_line_magic('load_ext', 'nbkv')"),
}


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no model is loaded)
    """Measure both starts in processes of their own; the note is the difference."""
    regime = {"python": platform.python_version(), "device": platform.machine(), "rounds": rounds}
    rows = []
    for against, (bare, ours) in _PAIRS.items():
        if _loads_torch(ours):
            rows.append(BenchRow(name=NAME, regime=regime, against=against, refused="torch is loaded by it"))
            continue
        candidates = [TimedCandidate("ours", partial(_timed, ours)), TimedCandidate("bare", partial(_timed, bare))]
        seconds = interleaved(candidates, rounds)
        rows.append(
            BenchRow(
                name=NAME,
                regime=regime,
                against=against,
                baseline=seconds["bare"],
                ours=seconds["ours"],
                floor=seconds["bare"],
                notes=(f"{(seconds['ours'] - seconds['bare']) * 1000:.0f} ms more",),
            )
        )
    return rows


def _timed(code: str, _: None) -> None:
    _start(code)


def _loads_torch(code: str) -> bool:
    return _start(f"{code}; import sys; sys.stdout.write(str('torch' in sys.modules))").endswith("True")


def _start(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout
