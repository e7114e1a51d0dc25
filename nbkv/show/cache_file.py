"""A cache file: what was written or taken in, and how far its golden rows are from this model's own."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import notes_html, table_html, table_text, view
from nbkv.show.units import count, plural, size, yes

COLUMNS = ("sequence", "check", "rows run", "off by", "at most", "passed")


def cache_file_text(file: dict[str, Any]) -> str:
    """Return what the file holds, and its checks."""
    checks = [table_text(COLUMNS, _rows(file), left=(0, 1))] if file["findings"] else []
    return "\n".join([headline(file), *checks, *(f"[note: {note}]" for note in file["notes"])])


def cache_file_html(file: dict[str, Any]) -> str:
    """Return the same as a view."""
    checks = table_html(COLUMNS, _rows(file), left=(0, 1)) if file["findings"] else ""
    return view(f"<p>{escape(headline(file))}</p>{checks}{notes_html(file['notes'])}", "cache-file")


def headline(file: dict[str, Any]) -> str:
    """Return path, size, sequences and origin in one line."""
    made, what = file["made"], "imported" if file["findings"] else "exported"
    held = f"{plural(len(file['sequences']), 'sequence')}, {plural(file['tokens'], 'token')}, {size(file['nbytes'])}"
    return f"{what} {file['path']}: {held}, of {made['model']} in {made['dtype']}"


def _rows(file: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (one["sequence"], one["name"], count(one["rows"]), f"{one['error']:.2g}", f"{one['bound']:.2g}", yes(one["ok"]))
        for one in file["findings"]
    ]
