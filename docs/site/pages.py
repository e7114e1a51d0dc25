"""Where each page of the site comes from in the repository, and what its links become."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "kernels/README.md": "kernels.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_SOURCE = re.compile(r'(!\[[^\]]*\]\()([^)\s]+)(\))|((?:src|srcset)=")([^"]+)(")')
_PICTURE = re.compile(r'<picture>\s*<source[^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>')
_TABLE = re.compile(r"<!-- strategies: .*?<!-- end -->", re.DOTALL)  # long lines, which have pages of their own here
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def moved() -> dict[str, str]:
    """Return the page that each file outside of docs/ becomes, by the file's path in the repository."""
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return MOVED | {f"notebooks/{name}.ipynb": f"notebooks/{name}.md" for name in notebooks}


def text(source: str) -> str:
    """Return the Markdown of the file at ``source``; of a notebook its text and its code."""
    path = ROOT / source
    if path.suffix != ".ipynb":
        said = path.read_text(encoding="utf-8")
        return _TABLE.sub("[All strategies](docs/strategies/index.md), each with its page.", said)
    cells = nbformat.read(path, as_version=4).cells
    said = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    return "\n\n".join([*said, f"*From `{source}`; run it with `nbkv run {source}`.*"])


def linked(markdown: str, page: str) -> str:
    """Return ``markdown`` of ``page`` with links that hold on the site; a link to what has no page becomes its text."""
    origin = {built: source for source, built in moved().items()}.get(page, f"docs/{page}")
    parts = _FENCE.split(_PICTURE.sub(_both_themes, markdown))
    return "".join(part if part.startswith("```") else _rewritten(part, origin, page) for part in parts)


def _both_themes(found: re.Match[str]) -> str:
    """Return a picture for each theme as the site's own switch knows them."""
    dark, alt, light = found.groups()
    return f"![{alt}]({light}#only-light)\n![{alt}]({dark}#only-dark)"


def _rewritten(markdown: str, origin: str, page: str) -> str:
    def link(found: re.Match[str]) -> str:
        said, target = found.groups()
        there = _target(target, origin, page)
        return f"[{said}]({there})" if there else said

    def source(found: re.Match[str]) -> str:
        before, target, after = (part for part in found.groups() if part is not None)
        return f"{before}{_target(target, origin, page) or target}{after}"

    return _SOURCE.sub(source, _LINK.sub(link, markdown))


def _target(target: str, origin: str, page: str) -> str:
    """Return ``target``, as the file at ``origin`` has it, as seen from ``page``; nothing if it has no page."""
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return target
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    built = moved().get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else "")
    if not built:
        return ""
    there = posixpath.relpath(built, posixpath.dirname(page) or ".")
    return f"{there}#{anchor}" if anchor else there
