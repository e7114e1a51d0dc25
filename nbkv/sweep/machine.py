"""On what a notebook was run: processor, memory, GPU, the versions of what computes, and the commit of a checkout."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from nbkv.models.identity.software import commit, versions
from nbkv.show.units import plural


def machine() -> dict[str, str]:
    """Return the machine and versions in words; torch is not imported for it."""
    import psutil  # noqa: PLC0415  (only while notebooks run)

    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "processor": f"{_processor()}, {plural(cores or 1, 'core')}",
        "memory": memory,
        "system": platform.platform(terse=True),
    }
    if gpu := _gpu():
        found["GPU"] = gpu
    found |= versions()
    return found | ({"commit": made_of} if (made_of := commit()) else {})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  (a fixed command)
    return ", ".join(done.stdout.split("\n")).strip(", ") if done.returncode == 0 else ""
