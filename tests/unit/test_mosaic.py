import struct
import zlib
from base64 import b64decode

import numpy as np
import pytest

from nbkv.show.mosaic import LINE, CellRun, height, picture
from nbkv.show.palette import PROVENANCE

NAMES = ("FRESH", "PREFIX", "CHUNK", "CORRECTED", "RECOMPUTED")


def pixels(address):
    """Decode a PNG of four bits a pixel: colours ``[height, width, 3]``, black where it is clear."""
    data = b64decode(address.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(name + body),)
        parts[name], at = body, at + 12 + size
    width, high, depth, kind, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (depth, kind, parts[b"tRNS"]) == (4, 3, b"\0")
    packed = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(high, 1 + (width + 1) // 2)
    assert not packed[:, 0].any()
    halves = np.stack([packed[:, 1:] >> 4, packed[:, 1:] & 15], axis=-1).reshape(high, -1)[:, :width]
    return np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)[halves]


def colour(name):
    return tuple(bytes.fromhex(PROVENANCE[name].colour[1:]))


@pytest.mark.parametrize("n", [1, 7, 200, 201, 3_000, 20_001])
def test_every_token_of_any_prompt_has_a_cell_in_its_colour(n):
    sources = np.random.default_rng(n).choice(NAMES, n)
    drawn = pixels(picture([CellRun(at, at + 1, str(source), False) for at, source in enumerate(sources)]))
    line = height(n) // -(-n // LINE)
    assert drawn.shape == (height(n), min(n, LINE), 3)
    for at, source in enumerate(sources):
        cell = drawn[(at // LINE + 1) * line - 1, at % LINE]  # all sources reach the ground
        assert tuple(cell) == colour(source)
    last = n % LINE
    assert not last or n < LINE or not drawn[-1, last:].any()


@pytest.mark.parametrize("lines", [1, 5, 30, 60])
def test_height_and_place_say_what_colour_says(lines):
    n = lines * LINE
    runs = [CellRun(at, at + 1, name, False) for at, name in enumerate(("PREFIX", "RECOMPUTED", "FRESH"))]
    drawn = pixels(picture([*runs, CellRun(3, 4, "CHUNK", True), CellRun(4, n, "CHUNK", False)])).any(axis=-1)
    cells = drawn[: len(drawn) // lines].T
    assert cells[0].sum() > cells[1].sum() > cells[2].sum() >= 1
    assert cells[3].sum() == 1  # dropped: a line at the top
    assert cells[3].argmax() == cells[0].argmax()
    assert not cells[3][-1]
