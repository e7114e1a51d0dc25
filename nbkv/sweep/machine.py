"""On what a notebook was run: processor, memory, GPU, and the versions of what computes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("nbkv", "torch", "transformers")


def machine() -> dict[str, str]:
    """Return the machine and versions in words; torch is not imported for it."""
    import psutil  # noqa: PLC0415  (only while notebooks run)

    memory = f"{psutil.virtual_memory().total / 1e9:.0f} GB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"processor": f"{_processor()}, {cores} cores", "memory": memory, "system": platform.platform(terse=True)}
    if gpu := _gpu():
        found["GPU"] = gpu
    return found | versions()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute."""
    return {"Python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}


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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"
