"""A prompt as a small picture: each token one cell in the colour of where its KV came from, however many there are.

A picture takes the place of elements because it is a hundredth of their size, and because pages that take style sheets
out of what they show leave it alone.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from nbkv.show.palette import PROVENANCE

LINE = 200  # tokens beside each other
WIDTH = 600  # pixels
HEIGHTS = ((1, 10), (10, 8), (40, 5))  # up to so many lines, pixels of each; more lines have three
SHARE = {"RECOMPUTED": 0.75, "FRESH": 0.45}  # of a line's height; all other sources have all of it
TALLEST = 240  # pixels that show at once; the rest is scrolled to
_NAMES = tuple(name for name in PROVENANCE if name != "DROPPED")
_CLEAR = 0  # of the picture's colours


class CellRun(NamedTuple):
    """Neighbouring tokens ``[start, stop)`` of one source, all of them ``dropped`` or none."""

    start: int
    stop: int
    source: str
    dropped: bool


def height(n: int) -> int:
    """Return how many pixels high the picture of ``n`` tokens is."""
    return -(-n // LINE) * _line_height(n)


def picture(runs: Sequence[CellRun]) -> str:
    """Return the picture of the prompt that ``runs`` cover, as the address of a PNG.

    A cell is one pixel wide, and becomes wider where the picture is shown.
    The height of a cell says what its colour says: recomputed tokens are lower than reused ones, fresh ones lower
    still; what was dropped is a thin line at the top.
    """
    n = runs[-1].stop
    cells = bytearray(n)
    for run in runs:
        cells[run.start : run.stop] = bytes([_cell(run.source, dropped=run.dropped)]) * (run.stop - run.start)
    high, wide = _line_height(n), min(n, LINE)
    colours = [bytes(_colour(cell, y, high) for cell in range(2 * len(_NAMES))) for y in range(high)]
    pixels = bytearray()
    for start in range(0, n, LINE):
        line = cells[start : start + LINE].ljust(wide + wide % 2, bytes([2 * len(_NAMES)]))
        for shown in colours:
            row = line.translate(shown.ljust(256, bytes([_CLEAR])))
            pixels += b"\0" + bytes(left << 4 | right for left, right in zip(row[::2], row[1::2], strict=True))
    return f"data:image/png;base64,{b64encode(_png(wide, height(n), bytes(pixels))).decode()}"


def picture_html(runs: Sequence[CellRun], told: str) -> str:
    """Return the picture as an element; ``told`` says in words what it shows."""
    high = height(runs[-1].stop)
    look = f"display:block;width:100%;max-width:{WIDTH}px;height:{high}px;image-rendering:pixelated;margin:0"
    image = f'<img alt="{escape(told)}" title="{escape(told)}" src="{picture(runs)}" style="{look}">'
    return f'<div class="nbkv-mosaic" style="max-height:{TALLEST}px;overflow-y:auto;margin:4px 0px">{image}</div>'


def _line_height(n: int) -> int:
    return next((pixels for most, pixels in HEIGHTS if n <= most * LINE), 3)


def _cell(source: str, *, dropped: bool) -> int:
    return 2 * _NAMES.index(source) + dropped


def _colour(cell: int, y: int, high: int) -> int:
    """Return the colour of line ``y`` (from above) of a cell; the uppermost is a gap where there is room for one."""
    source, dropped = divmod(cell, 2)
    top = 1 if high >= HEIGHTS[-1][1] else 0
    if dropped:
        return source + 1 if y == top else _CLEAR
    filled = max(1, round(SHARE.get(_NAMES[source], 1.0) * (high - top)))
    return source + 1 if y >= high - filled else _CLEAR


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG with our colours; ``pixels`` has for each line a zero (no filter) and half a byte a pixel."""
    colours = [(0, 0, 0), *(tuple(bytes.fromhex(PROVENANCE[name].colour[1:])) for name in _NAMES)]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0),
        b"PLTE": b"".join(map(bytes, colours)),
        b"tRNS": b"\0",  # the first colour is clear
        b"IDAT": zlib.compress(pixels, 9),
        b"IEND": b"",
    }
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in parts.items():
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found
