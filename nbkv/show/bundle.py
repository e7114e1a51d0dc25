"""What the JupyterLab extension draws from: small plain data beside the HTML, kept in the notebook with the output.

The words and numbers are those of the HTML view; the extension only lays them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbkv.show.bars import parts
from nbkv.show.columns import columns, meanings
from nbkv.show.comparison import COLUMNS, cells, headline
from nbkv.show.result import details, figures
from nbkv.show.tokenmap import Segment, segments
from nbkv.show.units import cut, nats, seconds, share

MIME = "application/vnd.nbkv.result+json"
SPANS = 80  # marks of a map
EACH_TOKEN = 160  # up to this prompt length tokens are told apart
MAP_TEXT, ANSWER = 2_800, 2_000  # characters kept
APART = "\x1f"  # between the texts of a map
NOTES, NOTE = 8, 200  # notes, and characters of each


def result_bundle(result: dict[str, Any]) -> dict[str, Any]:
    """Return the MIME bundle of a result: answer, figures, TTFT in parts, and the token map."""
    data = {
        "kind": "result",
        "strategy": result["strategy"],
        "text": cut(result["text"], ANSWER),
        "figures": figures(result)[1:],
        "details": details(result),
        "ttft": _ttft(result["timing"]),
        "notes": _notes(result["notes"]),
        "map": _map(result, with_text=True),
    }
    return {MIME: data}


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
            "text": cut(row["text"], ANSWER // len(results)),
            "notes": _notes(result["notes"]),
            "map": _map(result, with_text=False),
        }
        for row, result in zip(comparison["rows"], results, strict=True)
    ]
    data = {"kind": "comparison", "headline": headline(comparison), "columns": COLUMNS[1:], "rows": rows}
    return {MIME: data}


def _ttft(timing: dict[str, Any]) -> dict[str, Any]:
    split = [[part.name, round(part.value, 6), seconds(part.value)] for part in parts(timing) if part.value > 0]
    return {"seconds": round(timing["ttft_s"], 6), "told": seconds(timing["ttft_s"]), "parts": split}


def _notes(notes: Sequence[str]) -> list[str]:
    kept = [cut(note, NOTE) for note in notes[:NOTES]]
    return kept if len(notes) <= NOTES else [*kept, f"… {len(notes) - NOTES} more"]


def _map(result: dict[str, Any], *, with_text: bool) -> dict[str, Any]:
    n, pieces = result["tokens"]["prompt"], result["prompt_pieces"]
    spans = segments(result, each_token=False, limit=SPANS)
    drawn: dict[str, Any] = {"tokens": n, **columns(spans), "meaning": meanings(spans)}
    if with_text and len(pieces) == n:
        drawn["pieces"] = APART.join(piece.replace(APART, " ") for piece in _pieces(spans, pieces))
    return drawn


def _pieces(spans: Sequence[Segment], pieces: Sequence[str]) -> list[str]:
    """Return the text of each token, or of long prompts that of each span, cut in its middle where it is too long."""
    size = sum(map(len, pieces))
    if len(pieces) <= EACH_TOKEN and size <= MAP_TEXT:
        return list(pieces)
    return [_middle_cut("".join(pieces[span.start : span.stop]), min(1.0, MAP_TEXT / max(1, size))) for span in spans]


def _middle_cut(text: str, keep: float) -> str:
    half = max(8, int(len(text) * keep / 2))
    return text if len(text) <= 2 * half + 1 else f"{text[:half]}…{text[-half:]}"
