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

    def __init__(self, fingerprint: str, device: str, attention: str) -> None:
        """Name the file after everything a finding depends on."""
        about = "|".join((fingerprint, device, attention, torch.__version__, transformers.__version__, _code()))
        self._path = folder() / "verified" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.json"

    def get(self, name: str) -> Any:  # noqa: ANN401
        """Return the finding called ``name``, or None."""
        return self._read().get(name)

    def put(self, name: str, finding: object) -> None:
        """Keep ``finding`` (JSON-able) under ``name``."""
        entries = self._read() | {name: finding}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
                json.dump(entries, file)
            Path(file.name).replace(self._path)
        except OSError as error:
            warnings.warn(f"self-checks are not remembered: {error}", stacklevel=2)

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            warnings.warn(f"remembered self-checks cannot be read and are done again: {error}", stacklevel=2)
            return {}
        return entries if isinstance(entries, dict) else {}


@cache
def _code() -> str:
    """Return a digest of the code whose correctness a finding is about."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted((*package.glob("*.py"), *package.glob("models/*.py"), *package.glob("families/*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
