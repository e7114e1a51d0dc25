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


def picture(runs: Sequence[CellRun]) -> tuple[str, int]:
    """Return the picture of the prompt that ``runs`` cover, as the address of a PNG, and its height in pixels.

    The height of a cell says what its colour says: recomputed tokens are lower than reused ones, fresh ones lower
    still; what was dropped is a thin line at the top.
    """
    n = runs[-1].stop
    cells = bytearray(n)
    for run in runs:
        cells[run.start : run.stop] = bytes([_cell(run.source, dropped=run.dropped)]) * (run.stop - run.start)
    lines = -(-n // LINE)
    height = next((pixels for most, pixels in HEIGHTS if lines <= most), 3)
    wide = max(1, WIDTH // min(n, LINE))
    pixels = bytearray()
    for start in range(0, n, LINE):
        line = cells[start : start + LINE]
        for y in range(height):
            shown = bytes(_colour(cell, y, height) for cell in range(2 * len(_NAMES)))
            row = b"".join(bytes([shown[cell]]) * wide for cell in line)
            pixels += b"\0" + row.ljust(wide * min(n, LINE), bytes([_CLEAR]))
    png = _png(wide * min(n, LINE), lines * height, bytes(pixels))
    return f"data:image/png;base64,{b64encode(png).decode()}", lines * height


def picture_html(runs: Sequence[CellRun], told: str) -> str:
    """Return the picture as an element; ``told`` says in words what it shows."""
    address, height = picture(runs)
    look = f"display:block;width:100%;max-width:{WIDTH}px;height:{height}px;image-rendering:pixelated;margin:0"
    image = f'<img alt="{escape(told)}" title="{escape(told)}" src="{address}" style="{look}">'
    return f'<div class="nbkv-mosaic" style="max-height:{TALLEST}px;overflow-y:auto;margin:4px 0px">{image}</div>'


def _cell(source: str, *, dropped: bool) -> int:
    return 2 * _NAMES.index(source) + dropped


def _colour(cell: int, y: int, height: int) -> int:
    """Return the colour of line ``y`` (from above) of a cell ``height`` pixels high, the uppermost a gap."""
    source, dropped = divmod(cell, 2)
    top = 1 if height > HEIGHTS[-1][1] - 1 else 0
    if dropped:
        return source + 1 if y == top else _CLEAR
    filled = max(1, round(SHARE.get(_NAMES[source], 1.0) * (height - top)))
    return source + 1 if y >= height - filled else _CLEAR


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG with our colours; ``pixels`` has for each line a zero (no filter) and a colour a pixel."""
    colours = [(0, 0, 0), *(tuple(bytes.fromhex(PROVENANCE[name].colour[1:])) for name in _NAMES)]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": b"".join(map(bytes, colours)),
        b"tRNS": b"\0",  # the first colour is clear
        b"IDAT": zlib.compress(pixels, 9),
        b"IEND": b"",
    }
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in parts.items():
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found
