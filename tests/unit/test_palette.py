import re
from itertools import combinations
from pathlib import Path

import pytest

from nbkv.result import Provenance
from nbkv.show.palette import EDGE, PROVENANCE, SERIES, TIME, Shade, variables

ROOT = Path(__file__).resolve().parents[2]
LIGHT, DARK = "#ffffff", "#212121"  # JupyterLab's grounds, of outputs and of its panel
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
EYES = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


LINES = {f"line {number}": Shade(colour, "#111111") for number, colour in enumerate(SERIES, start=1)}


def linear(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(rgb):
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(one, other):
    """WCAG 2.2."""
    high, low = sorted((luminance(linear(one)), luminance(linear(other))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    x, y, z = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in rows)

    def bend(value):
        return value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116

    fx, fy, fz = bend(max(0, x) / 0.9505), bend(max(0, y)), bend(max(0, z) / 1.089)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def apart(one, other, eye):
    """CIE 1976 difference as an eye sees it; below about 10 two colours are hard to tell apart side by side."""
    seen = [
        lab([sum(a * b for a, b in zip(row, linear(colour), strict=True)) for row in EYES[eye]])
        for colour in (one, other)
    ]
    return sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5


@pytest.mark.parametrize("ground", [LIGHT, DARK])
@pytest.mark.parametrize("colour", sorted({*(shade.colour for shade in PROVENANCE.values()), *SERIES, EDGE}))
def test_tokens_and_lines_are_seen_on_light_and_dark(colour, ground):
    assert contrast(colour, ground) >= 3


@pytest.mark.parametrize("shade", [*PROVENANCE.values(), *TIME.values()], ids=[*PROVENANCE, *TIME])
def test_letters_are_read_on_their_colour(shade):
    assert contrast(shade.colour, shade.ink) >= 4.5


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("part", [PROVENANCE, TIME, LINES], ids=["provenance", "time", "series"])
def test_every_eye_tells_them_apart(part, eye):
    by_colour = {name: shade for name, shade in part.items() if name != "DROPPED"}  # told by its hatching
    for (one, first), (other, second) in combinations(by_colour.items(), 2):
        assert apart(first.colour, second.colour, eye) >= 10, (one, other)


@pytest.mark.parametrize("name", [*PROVENANCE, *TIME, "edge"])
def test_the_extension_has_the_same_colours(name):
    letters = {"PREFIX": "P", "CHUNK": "C", "CORRECTED": "A", "RECOMPUTED": "R", "FRESH": "F", "DROPPED": "D"}
    style = (ROOT / "labextension/style/base.css").read_text(encoding="utf-8")
    known = dict(re.findall(r"--nbkv-(\w+): (#\w+);", style))
    colour = EDGE if name == "edge" else (PROVENANCE | TIME)[name].colour
    assert known[letters.get(name, name)] == colour


def test_each_thing_has_a_colour_of_its_own():
    shades = [*PROVENANCE.values(), *TIME.values()]
    assert {*Provenance.__members__} < {*PROVENANCE}
    assert len({shade.colour for shade in shades}) == len(shades)
    assert len({*SERIES}) == len(SERIES)
    assert PROVENANCE["PREFIX"].translucent(0.25) == "rgba(0,114,178,0.25)"
    assert dict(re.findall(r"--nbkv-(\w+):(#\w+);", variables()))["compute"] == TIME["compute"].colour
