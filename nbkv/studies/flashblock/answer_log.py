"""The answers given so far, one a line: what was interrupted goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbkv.errors import BadOption

Key = tuple[Any, ...]
"""What an answer is to: plain values, such as block, unmasking rule, strategy and the question's number."""


@dataclass
class AnswerLog:
    """Answers by key in the file ``path``, whose first line is ``about``: what they are of, down to the versions.

    Each is on disk once ``add`` returns. A last line that a killed process has left in part is dropped. Raises
    ``BadOption`` where the file is about something else.
    """

    path: Path
    about: dict[str, Any]
    known: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what there is."""
        whole = self.path.read_bytes().rpartition(b"\n")[0] if self.path.is_file() else b""
        lines = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
        if lines and lines[0] != self.about:
            other = sorted(
                name for name in lines[0].keys() | self.about.keys() if lines[0].get(name) != self.about.get(name)
            )
            message = f"{self.path} is of another {', '.join(other)}: remove it to begin anew"
            raise BadOption(message)
        self.known = {tuple(line["of"]): line["answer"] for line in lines[1:]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(whole + b"\n" if lines else json.dumps(self.about).encode() + b"\n")

    def add(self, key: Key, answer: dict[str, Any]) -> None:
        """Keep ``answer`` under ``key``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"of": key, "answer": answer}) + "\n")
        self.known[key] = answer

    def remove(self) -> None:
        """Remove the file: what was made of it is written."""
        self.path.unlink()
