"""A replayed log: its hit rates by policy and size, as text, as a table with a drawing, and as a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

from nbkv.show.page import table_html, table_text, view
from nbkv.show.units import count, plural, seconds, size

WIDTH, HEIGHT = 560, 300
LEFT, TOP, RIGHT, BOTTOM = 52, 14, 430, 250
# dark enough on white and light enough on black; dashes say the same as colours
LINES = (("#2f7fd0", ""), ("#d98100", "7 4"), ("#1f9d64", "2 3"), ("#9a5cc9", "9 3 2 3"))
COLUMNS = ("policy", "size", "tokens reused", "blocks", "below", "evictions", "TTFT", "p90")


class PolicyCurve(NamedTuple):
    """One policy: its name, and pairs of tokens held and the hit rate reached."""

    policy: str
    points: list[tuple[float, float]]


def replay_text(replay: dict[str, Any]) -> str:
    """Return what was replayed, and the table."""
    return f"{headline(replay)}\n{table_text(COLUMNS, _cells(replay))}"


def replay_html(replay: dict[str, Any]) -> str:
    """Return the same as a view, with the curves where there are several sizes."""
    drawing = _svg(replay, "currentColor") if _drawn(replay) else ""
    return view(f"<p>{escape(headline(replay))}</p>{table_html(COLUMNS, _cells(replay))}{drawing}", "replay")


def replay_svg(replay: dict[str, Any]) -> str:
    """Return the curves as an SVG file that is readable on white as on black."""
    return _svg(replay, "#808080") + "\n"


def headline(replay: dict[str, Any]) -> str:
    """Return the log, its size, and TTFT without reuse."""
    full = f"; without reuse TTFT {seconds(replay['full_s'])} on {replay['model']}" if replay["full_s"] else ""
    blocks = f" in blocks of {replay['block']}" if replay["block"] > 1 else ""
    return (
        f"{replay['log']}: {plural(replay['requests'], 'request')}, {plural(replay['tokens'], 'token')}{blocks}{full}"
    )


def _cells(replay: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["policy"],
            _size(row),
            _rate(row["hit_rate"]),
            _rate(row["block_rate"]),
            _rate(row["below"]) if row["below"] else "–",
            count(row["evictions"]),
            seconds(row["ttft_s"]),
            seconds(row["ttft_p90_s"]),
        )
        for row in replay["rows"]
    ]


def _size(row: dict[str, Any]) -> str:
    if row["size"] is None:
        return "no bound"
    tokens = "1 token" if row["size"] == 1 else f"{_short(row['size'])} tokens"
    return tokens if row["size_bytes"] is None else size(row["size_bytes"])


def _rate(value: float) -> str:
    return f"{100 * value:.1f} %"


def _short(value: float) -> str:
    unit, scale = next(((u, s) for u, s in (("M", 1e6), ("k", 1e3)) if value >= s), ("", 1.0))
    return f"{value / scale:.3g}{unit}"


def _drawn(replay: dict[str, Any]) -> list[PolicyCurve]:
    """Return the curves: policies with at least two sizes that have a bound."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in replay["rows"]:
        if row["size"] is not None:
            found.setdefault(row["policy"], []).append((row["size"], row["block_rate"]))
    return [PolicyCurve(policy, sorted(points)) for policy, points in found.items() if len(points) > 1]


def _svg(replay: dict[str, Any], ink: str) -> str:
    curves = _drawn(replay)
    held = [tokens for curve in curves for tokens, _ in curve.points]
    bound = max((row["block_rate"] for row in replay["rows"] if row["size"] is None), default=None)
    top = ceil(max([0.1, bound or 0.0, *(rate for curve in curves for _, rate in curve.points)]) * 10) / 10
    low, high = floor(log10(min(held))), ceil(log10(max(held)))

    def at(tokens: float, rate: float) -> tuple[float, float]:
        across = (log10(tokens) - low) / max(1, high - low)
        return LEFT + (RIGHT - LEFT) * across, BOTTOM - (BOTTOM - TOP) * rate / top

    marks = [_axes(low, high, top, ink)]
    if bound is not None:
        _, y = at(10.0**low, bound)
        marks.append(
            f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{ink}" stroke-dasharray="1 3"/>'
        )
        marks.append(_word(f"no bound: {_rate(bound)}", RIGHT + 8, y + 4, ink))
    ends = _apart([at(*curve.points[-1])[1] for curve in curves], [] if bound is None else [at(10.0**low, bound)[1]])
    for number, (curve, end) in enumerate(zip(curves, ends, strict=True)):
        colour, dash = LINES[number % len(LINES)]
        places = [at(*point) for point in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        marks.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        marks.append(_word(curve.policy, RIGHT + 8, end + 4, colour))
    label = f"Share of blocks reused by size of the store, {escape(replay['log'])}"
    text = f'font-family="system-ui,DejaVu Sans,sans-serif" font-size="12" role="img" aria-label="{label}"'
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {text}>{"".join(marks)}</svg>'


def _axes(low: int, high: int, top: float, ink: str) -> str:
    frame = f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="{ink}"/>'
    marks = [frame]
    for step in range(round(top * 10) + 1):
        y = BOTTOM - (BOTTOM - TOP) * step / (top * 10)
        marks.append(_word(f"{step * 10} %", LEFT - 8, y + 4, ink, "end"))
    for exponent in range(low, high + 1):
        x = LEFT + (RIGHT - LEFT) * (exponent - low) / max(1, high - low)
        marks.append(_word(_short(10.0**exponent), x, BOTTOM + 18, ink, "middle"))
    marks.append(_word("tokens that the store holds", (LEFT + RIGHT) / 2, BOTTOM + 38, ink, "middle"))
    return "".join(marks)


def _apart(wanted: Sequence[float], taken: Sequence[float], least: float = 15.0) -> list[float]:
    """Return ``wanted`` heights of words, moved down where they would stand on each other or on those ``taken``."""
    found: dict[int, float] = {}
    for index in sorted(range(len(wanted)), key=wanted.__getitem__):
        height = wanted[index]
        while clash := [other for other in (*found.values(), *taken) if abs(other - height) < least]:
            height = max(clash) + least
        found[index] = height
    return [found[index] for index in range(len(wanted))]


def _word(text: str, x: float, y: float, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
