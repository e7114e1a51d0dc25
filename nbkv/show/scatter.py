"""Fidelity against computed share: how far each strategy is from full for what it computes, as a drawing in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

from nbkv.show.palette import EDGE
from nbkv.show.units import cut, nats, share

KL_FLOOR = 1e-6  # below is arithmetic noise
LEFT, TOP, BOTTOM = 50.0, 24.0, 174.0  # pixels
WIDTH, NARROW, HEIGHT = 380, 256, 212  # of the drawing, and of the one that is shown where there is no room for that
RIGHT = 50.0  # for labels
LABEL, CHARACTER, LINE = 24, 7.0, 14.0
_TEXT = f"position:absolute;font-size:11px;line-height:{LINE:.0f}px;white-space:nowrap"


class LabelBox(NamedTuple):
    """A rectangle that is already written on."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: LabelBox) -> bool:
        """Whether two rectangles overlap."""
        apart_x = self.right < other.left or other.right < self.left
        return not (apart_x or self.bottom < other.top or other.bottom < self.top)

    def inside(self, width: float) -> bool:
        """Whether the rectangle lies in a drawing of that width."""
        return self.left > LEFT + 2 and self.right <= width and self.top > TOP - 6 and self.bottom < BOTTOM


def fidelity_html(rows: Sequence[dict[str, Any]]) -> str:
    """Return KL (logarithmic, exact ones on the floor) over the computed share; empty where no KL was measured."""
    measured = [row for row in rows if row.get("kl") is not None and row.get("compute_share") is not None]
    if not measured:
        return ""
    title = "KL to full (nats) against computed share"
    wide = f'<div class="nbkv-wide">{_drawing(measured, WIDTH, title)}</div>'
    narrow = (
        f'<div class="nbkv-narrow" aria-hidden="true" style="display:none">{_drawing(measured, NARROW, title)}</div>'
    )
    rules = (
        f"@container (max-width:{WIDTH + 39}px){{.nbkv-wide{{display:none}}.nbkv-narrow{{display:block!important}}}}"
    )
    return f'<div><style>{rules}</style><b class="nbkv-title">{title}</b>{wide}{narrow}</div>'


def _drawing(measured: Sequence[dict[str, Any]], wide: int, title: str) -> str:
    right = wide - RIGHT
    largest = max(KL_FLOOR, *(row["kl"] for row in measured))
    low, high = round(log10(KL_FLOOR)), max(0, ceil(log10(largest)))
    widest = max(1.0, *(row["compute_share"] for row in measured))
    points = []
    for row in measured:
        height = (log10(max(row["kl"], KL_FLOOR)) - low) / (high - low)
        points.append((LEFT + (right - LEFT) * row["compute_share"] / widest, BOTTOM - (BOTTOM - TOP) * height, row))
    marks = "".join([*_points(points, wide), *_axes(low, high, widest, right)])
    size = f"position:relative;width:{wide}px;height:{HEIGHT}px"
    return f'<div role="figure" aria-label="{title}" style="{size}">{marks}</div>'


def _axes(low: int, high: int, widest: float, right: float) -> list[str]:
    line = "border-left:1px solid #808080;border-bottom:1px solid #808080"
    size = f"left:{LEFT:.0f}px;top:{TOP:.0f}px;width:{right - LEFT:.0f}px;height:{BOTTOM - TOP:.0f}px"
    marks = [f'<span style="position:absolute;{size};{line}"></span>']
    for exponent in range(low, high + 1, max(1, ceil((high - low) / 4))):
        y = BOTTOM - (BOTTOM - TOP) * (exponent - low) / (high - low)
        label = f"≤{KL_FLOOR:g}" if exponent == low else f"{10.0**exponent:g}"
        marks.append(_word(label, 0, y - LINE / 2, f"width:{LEFT - 6:.0f}px;text-align:right"))
    for half in range(floor(widest * 2) + 1):
        x = LEFT + (right - LEFT) * (half / 2) / widest
        marks.append(_word(f"{half * 50} %", x - 20, BOTTOM + 4, "width:40px;text-align:center"))
    width = f"width:{right - LEFT:.0f}px;text-align:center"
    names = [_word("KL to full (nats)", 0, 0), _word("computed share", LEFT, BOTTOM + 4 + LINE, width)]
    return [*marks, *names]


def _points(points: list[tuple[float, float, dict[str, Any]]], wide: int) -> list[str]:
    """Draw each point, and its label where that covers nothing drawn before; else only hovering tells the name."""
    marks, taken = [], [LabelBox(x - 5, x + 5, y - 5, y + 5) for x, y, _ in points]
    for x, y, row in points:
        told = escape(f"{row['strategy']}: KL {nats(row['kl'])}, {share(row['compute_share'])} computed")
        dot = f"width:10px;height:10px;border-radius:5px;background-color:{EDGE};z-index:1"
        place = f"left:{x - 5:.1f}px;top:{y - 5:.1f}px"
        marks.append(f'<span title="{told}" style="position:absolute;{place};{dot}"></span>')
        label = cut(str(row["strategy"]), LABEL)
        free = next((box for box in _places(x, y, label) if box.inside(wide) and not any(map(box.meets, taken))), None)
        if free:
            taken.append(free)
            marks.append(_word(label, free.left, free.top))
    return marks


def _places(x: float, y: float, label: str) -> list[LabelBox]:
    """Return where a label may stand, best first: right of its point, then left, each also somewhat above or below."""
    width = CHARACTER * len(label)
    right = [(x + 9, y + dy) for dy in (0, -LINE, LINE, -2 * LINE, -3 * LINE)]
    left = [(x - 9 - width, y + dy) for dy in (0, -LINE, LINE, -2 * LINE, -3 * LINE, -4 * LINE)]
    return [LabelBox(at, at + width, middle - LINE / 2, middle + LINE / 2 - 1) for at, middle in (*right, *left)]


def _word(text: str, left: float, top: float, more: str = "") -> str:
    return f'<span style="{_TEXT};left:{left:.0f}px;top:{top:.0f}px;{more}">{escape(text)}</span> '
