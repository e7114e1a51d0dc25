"""What computes: the versions of it, and the commit of a checkout that is run, so that a figure can be made again."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("nbkv", "torch", "transformers")
_PATIENCE = 20  # seconds


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute; torch is not imported for it."""
    return {"Python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}


def commit(folder: Path | None = None) -> str:
    """Return the commit of the checkout that ``folder`` (this package's own) is at the top of or right below.

    It is followed by "with changes" where tracked files are not as committed; "" where there is no checkout, as for an
    installed package, also one whose environment lies inside of somebody's repository.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if not any((place / ".git").exists() for place in (folder, folder.parent)):
        return ""
    known = _git(folder, "rev-parse", "HEAD")
    changed = known and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{known} with changes" if changed else known


def _git(folder: Path, *asked: str) -> str:
    tool = shutil.which("git")
    if tool is None:
        return ""
    command = [tool, "-C", str(folder), *asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603  (fixed)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"
