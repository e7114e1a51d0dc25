"""What self-checks found, kept in the user's cache folder by model fingerprint, so that a model is proved only once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

_JUDGED = ("models", "families", "strategies", "inference", "stores", "session")  # rooms that a finding depends on


def folder() -> Path:
    """Return where verdicts are kept: ``$NBKV_CACHE``, else ``nbkv`` in the user's cache folder."""
    own = os.environ.get("NBKV_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbkv"


class Verdicts:
    """The findings about one model under this very software on this kind of device; empty if there are none.

    Entries are plain data by name. A file that cannot be read counts as no finding, with one warning; one that cannot
    be written is left out, since everything can be found out again.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Keep findings in the file ``path``, or without one only as long as this object lives."""
        self._path = path
        self._entries = {} if path is None else _read(path)

    @classmethod
    def of(cls, fingerprint: str, device: str, attention: str) -> Verdicts:
        """Return the kept findings about a model; the file is named after everything they depend on."""
        about = f"{fingerprint}|{device}|{attention}|{torch.__version__}|{transformers.__version__}|{_code()}"
        return cls(folder() / "verified" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.json")

    def get(self, name: str) -> Any:  # noqa: ANN401  (any JSON value)
        """Return the finding called ``name``, or None."""
        return self._entries.get(name)

    def put(self, name: str, finding: object) -> None:
        """Keep ``finding`` (JSON-able) under ``name``."""
        self._entries[name] = finding
        if self._path is not None:
            self._entries = _read(self._path) | self._entries
            _write(self._path, self._entries)

    def hold(self, name: str, finding: object) -> None:
        """Keep ``finding`` as ``put`` does, but without a file of its own accord: it is written with the next one."""
        self._entries[name] = finding


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError) as error:
        warnings.warn(f"remembered self-checks cannot be read and are done again: {error}", stacklevel=4)
        return {}


def _write(path: Path, entries: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(entries, file)
        Path(file.name).replace(path)
    except OSError as error:
        warnings.warn(f"self-checks are not remembered: {error}", stacklevel=4)


@cache
def _code() -> str:
    """Return a digest of the code whose correctness a finding is about."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    found = [*package.glob("*.py"), *(path for room in _JUDGED for path in package.glob(f"{room}/**/*.py"))]
    for path in sorted(found):
        digest.update(path.read_bytes())
    return digest.hexdigest()
