"""What a command writes between two marks of a page that people write."""

from __future__ import annotations


def marked(page: str, begin: str, said: str, end: str) -> str:
    """Return ``page`` with ``said`` between its marks ``begin`` and ``end``; without these as it is."""
    before, found, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    return f"{before}{found}\n{said}\n{last}{after}" if last else page
