"""Links in the documents lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    ROOT / "kernels" / "README.md",
    *(ROOT / "notebooks").glob("*.ipynb"),
]
LINK = re.compile(r"""(?:\]\(|(?:src|srcset|href)=")(?!https?:|mailto:|data:|#)([^)"\s#]+)(?:#([^)"\s]*))?""")


def text_of(page: Path) -> str:
    """Return what a page says; of a notebook its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """Return the links of ``page`` that lead nowhere."""
    found = []
    for path, anchor in LINK.findall(text_of(page)):
        there = page.parent / path
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            found.append(f"{path}#{anchor}" if anchor else path)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "there.md").write_text("# One `name` here\n", encoding="utf-8")
    page.write_text(
        "[a](there.md) [b](there.md#one-name-here) [c](gone.md) [d](there.md#two) "
        '[e](https://example.org/x) <img src="gone.png">',
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "there.md#two", "gone.png"]
