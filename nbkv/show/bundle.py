"""What the JupyterLab extension draws from: small plain data beside the HTML, kept in the notebook with the output.

The words and numbers are those of the HTML view; the extension only lays them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbkv.show.bars import parts
from nbkv.show.comparison import COLUMNS, cells, headline
from nbkv.show.result import details, figures
from nbkv.show.tokenmap import SOURCES, Segment, segments
from nbkv.show.units import cut, nats, seconds, share

MIME = "application/vnd.nbkv.result+json"
SPANS = 100  # marks of a map
EACH_TOKEN = 160  # up to this prompt length tokens are told apart
MAP_TEXT, ANSWER = 6_000, 4_000  # characters kept
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
    """Return the spans of the prompt by source, with their text as one piece a token, or one a span."""
    n, pieces = result["tokens"]["prompt"], result["prompt_pieces"]
    spans = segments(result, each_token=False, limit=SPANS)
    keep = min(1.0, MAP_TEXT / max(1, sum(map(len, pieces))))
    marks = []
    for span in spans:
        mark: dict[str, Any] = {"source": span.source, "start": span.start, "stop": span.stop}
        mark |= {
            name: value
            for name in ("chunk", "mixed", "dropped", "deviation")
            if (value := getattr(span, name)) not in {"", False, None}
        }
        if with_text and len(pieces) == n:
            mark["pieces"] = _pieces(span, pieces, keep, each=n <= EACH_TOKEN)
        marks.append(mark)
    meaning = {name: look.meaning for name, look in SOURCES.items()}
    return {"tokens": n, "spans": marks, "meaning": {name: meaning[name] for name in {span.source for span in spans}}}


def _pieces(span: Segment, pieces: Sequence[str], keep: float, *, each: bool) -> list[str]:
    own = pieces[span.start : span.stop]
    if each and keep == 1:
        return list(own)
    text = "".join(own)
    half = max(12, int(len(text) * keep / 2))
    return [text if len(text) <= 2 * half + 1 else f"{text[:half]}…{text[-half:]}"]
