"""Writes the list of modules in docs/structure.md from their own first sentences: `python tests/unit/structure.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, PAGE = ROOT / "nbkv", ROOT / "docs" / "structure.md"
MARK = "<!-- every module: written by `python tests/unit/structure.py` -->"
FACES = ["cli", "magics", "integrations", "widgets", "lab", "bench", "sweep", "studies", "traces"]
FACES += ["session", "inference", "strategies"]
ROOMS = [
    *FACES,
    "families",
    "training",
    "models",
    "stores",
    "prompts",
    "tasks",
    "result",
    "show",
]  # from the top floor down


def sentence(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def rooms() -> list[Path]:
    """Return every folder of modules, the top floor first."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    return [PACKAGE, *sorted(folders, key=lambda room: (ROOMS.index(room.relative_to(PACKAGE).parts[0]), room))]


def modules() -> str:
    """Return one section a room, one line a module."""
    lines = []
    for room in rooms():
        name = "" if room == PACKAGE else f"{room.relative_to(PACKAGE)}/"
        lines += ["", f"### `nbkv/{name}`", "", sentence(room / "__init__.py"), ""]
        for path in sorted(room.glob("*.py")):
            if path.name != "__init__.py":
                lines.append(f"- `{path.relative_to(PACKAGE)}`: {sentence(path)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    said = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(f"{said}{MARK}\n{modules()}", encoding="utf-8")
