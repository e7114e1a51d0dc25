"""Fidelity against computed share as inline SVG: how far each strategy is from full for what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

from nbkv.show.page import SVG_WIDTH, svg_html
from nbkv.show.units import cut, nats, share

KL_FLOOR = 1e-6  # below is arithmetic noise
LEFT, TOP, RIGHT, BOTTOM = 46.0, 26.0, SVG_WIDTH - 14.0, 176.0
LABEL, CHARACTER = 24, 6.5


class Box(NamedTuple):
    """A rectangle that is already written on."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles overlap."""
        apart_x = self.right < other.left or other.right < self.left
        return not (apart_x or self.bottom < other.top or other.bottom < self.top)

    def inside(self) -> bool:
        """Whether the rectangle lies in the drawing."""
        return self.left > LEFT + 2 and self.right <= RIGHT + 10 and self.top > TOP - 12 and self.bottom < BOTTOM


def fidelity_svg(rows: Sequence[dict[str, Any]]) -> str:
    """Return KL (logarithmic, exact ones on the floor) over the computed share; empty where no KL was measured."""
    measured = [row for row in rows if row.get("kl") is not None and row.get("compute_share") is not None]
    if not measured:
        return ""
    largest = max(KL_FLOOR, *(row["kl"] for row in measured))
    low, high = round(log10(KL_FLOOR)), max(0, ceil(log10(largest)))
    widest = max(1.0, *(row["compute_share"] for row in measured))
    points = []
    for row in measured:
        height = (log10(max(row["kl"], KL_FLOOR)) - low) / (high - low)
        points.append((LEFT + (RIGHT - LEFT) * row["compute_share"] / widest, BOTTOM - (BOTTOM - TOP) * height, row))
    marks = [*_axes(low, high, widest), *_points(points)]
    return svg_html("".join(marks), int(BOTTOM) + 34, "KL to full (nats) against computed share")


def _axes(low: int, high: int, widest: float) -> list[str]:
    marks = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for exponent in range(low, high + 1, max(1, ceil((high - low) / 4))):
        y = BOTTOM - (BOTTOM - TOP) * (exponent - low) / (high - low)
        label = f"≤{KL_FLOOR:g}" if exponent == low else f"{10.0**exponent:g}"
        marks.append(f'<text x="{LEFT - 4}" y="{y + 4:.0f}" text-anchor="end">{label}</text>')
    for half in range(floor(widest * 2) + 1):
        x = LEFT + (RIGHT - LEFT) * (half / 2) / widest
        anchor = "end" if x > RIGHT - 12 else "middle"
        marks.append(f'<text x="{x:.0f}" y="{BOTTOM + 14}" text-anchor="{anchor}">{half * 50} %</text>')
    marks.append(f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{BOTTOM + 29}" text-anchor="middle">computed share</text>')
    return marks


def _points(points: list[tuple[float, float, dict[str, Any]]]) -> list[str]:
    """Draw each point, and its label where that covers nothing drawn before; else only hovering tells the name."""
    marks, taken = [], [Box(x - 5, x + 5, y - 5, y + 5) for x, y, _ in points]
    for x, y, row in points:
        told = escape(f"{row['strategy']}: KL {nats(row['kl'])}, {share(row['compute_share'])} computed")
        marks.append(f'<circle class="sp" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{told}</title></circle>')
        label = cut(str(row["strategy"]), LABEL)
        place = next((box for box in _places(x, y, label) if box.inside() and not any(map(box.meets, taken))), None)
        if place:
            taken.append(place)
            marks.append(f'<text x="{place.left:.0f}" y="{place.bottom - 2:.0f}">{escape(label)}</text>')
    return marks


def _places(x: float, y: float, label: str) -> list[Box]:
    """Return where a label may stand, best first: right of its point, then left, each also somewhat above or below."""
    width = CHARACTER * len(label)
    right = [(x + 8, y + 4 + dy) for dy in (0, -13, 13, -26, -39)]
    left = [(x - 8 - width, y + 4 + dy) for dy in (0, -13, 13, -26, -39, -52)]
    return [Box(at, at + width, base - 9, base + 2) for at, base in (*right, *left)]
