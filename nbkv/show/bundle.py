"""What the JupyterLab extension draws from: small plain data beside the HTML, kept in the notebook with the output.

The words and numbers are those of the HTML view; the extension only lays them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbkv.show import columns
from nbkv.show.answer import markdown_html
from nbkv.show.badge import badge
from nbkv.show.bars import parts
from nbkv.show.comparison import COLUMNS, KEY, cells, headline
from nbkv.show.result import details, figures, honesty, new_notes, old_notes
from nbkv.show.units import cut, nats, seconds, share
from nbkv.show.why import why_data

MIME = "application/vnd.nbkv.result+json"
ANSWER, EACH = 20_000, 2_000  # characters of an answer that are kept, and of all answers of a comparison
NOTES, NOTE = 8, 200  # notes, and characters of each


def result_bundle(result: dict[str, Any]) -> dict[str, Any]:
    """Return the MIME bundle of a result: answer, figures, TTFT in parts, the token map, and why tokens ran."""
    data = {
        "kind": "result",
        "strategy": result["strategy"],
        "honesty": honesty(result),
        **answer(result["text"], markdown=result.get("markdown", False)),
        "figures": figures(result)[1:],
        "details": details(result),
        "ttft": _ttft(result["timing"]),
        "notes": _notes(new_notes(result)),
        "old_notes": _notes(old_notes(result)),
        "why": why_data(result.get("why")),
        "map": columns.counts(result) | {"text": columns.text(result)},  # the HTML has the picture
    }
    return {MIME: data}


def answer_bundle(text: str, *, markdown: bool) -> dict[str, Any]:
    """Return the MIME bundle of an answer that is still coming; the complete one begins with the same elements."""
    return {MIME: {"kind": "answer"} | answer(text, markdown=markdown)}


def answer(text: str, *, markdown: bool) -> dict[str, Any]:
    """Return the text, and its Markdown as HTML where it has any."""
    return {"text": cut(text, ANSWER), "html": markdown_html(text, ANSWER) if markdown else ""}


def comparison_bundle(comparison: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the MIME bundle of a comparison: its table, and of each strategy TTFT, fidelity and a map without text."""
    rows = [
        {
            "strategy": row["strategy"],
            "cells": cells(row)[1:],
            "ttft": _ttft(row),
            "computed": row["compute_share"],
            "kl": row["kl"],
            "told": f"KL {nats(row['kl'])}, {share(row['compute_share'])} computed",
            "honesty": badge(result["exact"], row),
            "text": cut(row["text"], EACH // len(results)),
            "notes": _notes(result["notes"]),
            "map": columns.outline(result),
        }
        for row, result in zip(comparison["rows"], results, strict=True)
    ]
    measured = any(row["kl"] is not None for row in rows)
    about = {"headline": headline(comparison), "columns": COLUMNS[1:], "key": KEY if measured else ""}
    data = {"kind": "comparison", **about, "rows": rows}
    return {MIME: data}


def _ttft(timing: dict[str, Any]) -> dict[str, Any]:
    split = [[part.name, round(part.value, 6), seconds(part.value)] for part in parts(timing) if part.value > 0]
    return {"seconds": round(timing["ttft_s"], 6), "told": seconds(timing["ttft_s"]), "parts": split}


def _notes(notes: Sequence[str]) -> list[str]:
    kept = [cut(note, NOTE) for note in notes[:NOTES]]
    return kept if len(notes) <= NOTES else [*kept, f"… {len(notes) - NOTES} more"]
