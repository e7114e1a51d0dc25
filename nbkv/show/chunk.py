"""A Chunk as text and as HTML."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.answer import answer_html
from nbkv.show.page import view
from nbkv.show.units import plural

MAX_TEXT = 20_000  # bytes


def chunk_text(chunk: dict[str, Any]) -> str:
    """Return name, length and how the chunk was encoded in one line."""
    return f"chunk {chunk['name']}: {_facts(chunk)}"


def chunk_html(chunk: dict[str, Any]) -> str:
    """Return the line and, folded, the text."""
    text = answer_html(chunk["text"], markdown=False, most=MAX_TEXT)
    body = f"chunk <b>{escape(chunk['name'])}</b>: {escape(_facts(chunk))}"
    return view(f"<details><summary>{body}</summary>{text}</details>", "chunk")


def _facts(chunk: dict[str, Any]) -> str:
    sink = plural(len(chunk["sink"]), "token")
    return f"{plural(len(chunk['token_ids']), 'token')}, {chunk['lineage']}, encoded behind {sink}"
