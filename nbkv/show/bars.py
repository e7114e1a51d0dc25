"""TTFT split into its parts as inline SVG: one stacked bar a row, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from nbkv.show.page import SVG_WIDTH, svg_html
from nbkv.show.units import cut, seconds

BAR, GAP, TOP = 16, 8, 20
LABEL, CHARACTER = 24, 6.7  # characters of a label, width of one
VALUE = 58  # room for the number at the end


class Part(NamedTuple):
    """A part of the TTFT: its name, seconds, class in the style sheet, and letter."""

    name: str
    value: float
    css: str
    letter: str


# name, key of the timing, class in the style sheet, letter
PARTS = (("load", "load_s", "sp", "L"), ("select", "select_s", "sa", "S"), ("compute", "prefill_s", "sr", "C"))
OTHER = ("other", "sf", "O")
NAMES = (*(name for name, *_ in PARTS), OTHER[0])


def parts(timing: dict[str, Any]) -> list[Part]:
    """Return the parts of ``timing``'s TTFT; they sum to it.

    Where the parts are not known (a history keeps the sum only) there is one part without a letter.
    """
    total = float(timing.get("ttft_s") or 0.0)
    if not any(key in timing for _, key, _, _ in PARTS):
        return [Part("", total, "sp", "")]
    found = [Part(name, float(timing.get(key) or 0.0), css, letter) for name, key, css, letter in PARTS]
    name, css, letter = OTHER
    return [*found, Part(name, max(0.0, total - sum(part.value for part in found)), css, letter)]


def ttft_svg(rows: Sequence[tuple[str, dict[str, Any]]], title: str = "Time to first token") -> str:
    """Return one bar for each ``(label, timing)``."""
    longest = max((float(timing.get("ttft_s") or 0.0) for _, timing in rows), default=0.0) or 1.0
    left = 8 + CHARACTER * max((min(len(label), LABEL) for label, _ in rows), default=0)
    scale = (SVG_WIDTH - left - VALUE) / longest
    bars = [_bar(label, timing, left, TOP + i * (BAR + GAP), scale) for i, (label, timing) in enumerate(rows)]
    height = TOP + len(rows) * (BAR + GAP)
    legend = _legend(rows, scale)
    if legend:
        height += 18
        bars.append(f'<text x="{left:.0f}" y="{height - 5}" opacity=".8">{legend}</text>')
    return svg_html("".join(bars), height, title)


def _bar(label: str, timing: dict[str, Any], left: float, top: int, scale: float) -> str:
    marks, x, baseline = [], left, top + 12
    if label:
        name = f"{escape(cut(label, LABEL))}<title>{escape(label)}</title>"
        marks.append(f'<text x="{left - 8:.0f}" y="{baseline}" text-anchor="end">{name}</text>')
    for part in _visible(timing, scale):
        width = scale * part.value
        told = escape(f"{label} {part.name} {seconds(part.value)}".strip())
        marks.append(
            f'<rect class="{part.css}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}">'
            f"<title>{told}</title></rect>"
        )
        if part.letter and width > 2 * CHARACTER:
            marks.append(f'<text class="on" x="{x + 3:.1f}" y="{baseline}">{part.letter}</text>')
        x += width
    total = seconds(float(timing.get("ttft_s") or 0.0))
    return "".join([*marks, f'<text x="{x + 5:.1f}" y="{baseline}">{total}</text>'])


def _legend(rows: Sequence[tuple[str, dict[str, Any]]], scale: float) -> str:
    used = {part.name: part.letter for _, timing in rows for part in _visible(timing, scale) if part.name}
    return ", ".join(f"{used[name]} {name}" for name in NAMES if name in used)


def _visible(timing: dict[str, Any], scale: float) -> list[Part]:
    return [part for part in parts(timing) if part.value * scale > 0.3]  # noqa: PLR2004  (a third of a pixel)
