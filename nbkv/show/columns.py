"""A token map as small data, for the panel and the outputs of the JupyterLab extension.

Notebooks are written with every value of a list on a line of its own, so what is long is one string: the picture as it
is, the text packed.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from math import floor, log10
from typing import Any

from nbkv.show.excerpt import TokenRun, shown
from nbkv.show.mosaic import height, picture
from nbkv.show.tokenmap import SOURCES, cells, runs, totals, visible
from nbkv.show.units import cut

NAMES, NAME = 40, 120  # chunks that are named, and characters of each name
MOST = 19_000  # bytes of text
ROUND_FROM = 1_000  # tokens: deviations of longer prompts are told as 0.1, 0.2, 0.5, 1, 2, …
LETTERS = {name: look.letter for name, look in SOURCES.items()} | {"DROPPED": "D"}


def outline(result: dict[str, Any]) -> dict[str, Any]:
    """Return the picture of a prompt beside its counts."""
    return counts(result) | {"picture": picture(cells(result)) if result["tokens"]["prompt"] else ""}


def counts(result: dict[str, Any]) -> dict[str, Any]:
    """Return the height of a prompt's picture in pixels, tokens by letter (``P120 R4``) and the chunks' names."""
    n = result["tokens"]["prompt"]
    names = list(dict.fromkeys(_line(chunk["name"]) for chunk in result.get("chunks", ())))
    more = [f"… {len(names) - NAMES} more"] if len(names) > NAMES else []
    return {
        "tokens": n,
        "totals": " ".join(f"{LETTERS[name]}{number}" for name, number in totals(result).items()),
        "chunks": "\n".join([*names[:NAMES], *more]),
        "height": height(n),
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
    deviation = result.get("deviation")
    rounded = n > ROUND_FROM
    data = {
        "rounded": rounded,
        "sources": "".join(_repeated(run) for run in found),
        "chunks": [
            [chunk["start"], chunk["stop"], _line(chunk["name"])]
            for chunk in result.get("chunks", ())
            if any(chunk["start"] < stop and start < chunk["stop"] for start, stop in ranges)
        ],
        "dropped": [list(span) for span in result.get("dropped", ())],
        "shown": ranges,
        "pieces": [pieces[at] for at in kept],
        "deviation": [_digits(deviation[at], rounded=rounded) for at in kept] if deviation else [],
    }
    return b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()


def _repeated(run: TokenRun) -> str:
    length = run.stop - run.start
    return f"{LETTERS[run.source]}{length if length > 1 else ''}"


def _digits(value: float | None, *, rounded: bool) -> str:
    if value is None:
        return ""
    if not rounded or value <= 0:
        return f"{value:.2g}"
    power = 10.0 ** floor(log10(value))
    return f"{min((1, 2, 5, 10), key=lambda step: abs(log10(step * power / value))) * power:.1g}"


def _line(name: str) -> str:
    return cut(" ".join(name.split()), NAME)
