"""A token map as small data, for the panel and the outputs of the JupyterLab extension.

Notebooks are written with every value of a list on a line of its own, so what is long is one string: the picture as it
is, the text packed.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any

from nbkv.show.mosaic import picture
from nbkv.show.tokenmap import LINE, SOURCES, TokenRun, cells, runs, shown, told, totals, visible
from nbkv.show.units import cut

NAMES, NAME = 40, 60  # chunks that are named, and characters of each name
MOST = 40_000  # bytes of text
ROUND_FROM = 1_000  # tokens: deviations of longer prompts are told with one digit
LETTERS = {name: look.letter for name, look in SOURCES.items()} | {"DROPPED": "D"}


def outline(result: dict[str, Any]) -> dict[str, Any]:
    """Return the picture of a prompt, its height in pixels, tokens by letter (``P120 R4``) and the chunks' names."""
    n = result["tokens"]["prompt"]
    address, height = picture(cells(result)) if n else ("", 0)
    names = list(dict.fromkeys(_line(chunk["name"]) for chunk in result.get("chunks", ())))
    more = [f"… {len(names) - NAMES} more"] if len(names) > NAMES else []
    return {
        "tokens": n,
        "line": LINE,
        "totals": " ".join(f"{LETTERS[name]}{number}" for name, number in totals(result).items()),
        "chunks": "\n".join([*names[:NAMES], *more]),
        "told": told(result),
        "picture": address,
        "height": height,
    }


def text(result: dict[str, Any]) -> str:
    """Return the prompt's text with where each token came from, packed (JSON, deflated, base64); empty without text.

    ``sources`` are letters with how often each is repeated, ``chunks`` and ``dropped`` spans of tokens, ``shown`` the
    spans whose ``pieces`` and ``deviation`` follow.
    """
    pieces = [visible(piece) for piece in result.get("prompt_pieces") or ()]
    n = result["tokens"]["prompt"]
    if not n or len(pieces) != n:
        return ""
    found = runs(result)
    ranges = shown(found, [len(piece.encode()) for piece in pieces], MOST)
    kept = [at for start, stop in ranges for at in range(start, stop)]
    deviation, digits = result.get("deviation"), 1 if n > ROUND_FROM else 2
    data = {
        "sources": "".join(_repeated(run) for run in found),
        "chunks": [
            [chunk["start"], chunk["stop"], _line(chunk["name"])]
            for chunk in result.get("chunks", ())
            if any(chunk["start"] < stop and start < chunk["stop"] for start, stop in ranges)
        ],
        "dropped": [list(span) for span in result.get("dropped", ())],
        "shown": ranges,
        "pieces": [pieces[at] for at in kept],
        "deviation": [_digits(deviation[at], digits) for at in kept] if deviation else [],
    }
    return b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()


def _repeated(run: TokenRun) -> str:
    length = run.stop - run.start
    return f"{LETTERS[run.source]}{length if length > 1 else ''}"


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _line(name: str) -> str:
    return cut(" ".join(name.split()), NAME)
