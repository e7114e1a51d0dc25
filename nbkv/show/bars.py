"""TTFT split into its parts: a table with one stacked bar a row, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from nbkv.show.page import chip
from nbkv.show.units import cut, seconds

WIDTH, HEIGHT = 200, 16  # pixels of the longest bar
LABEL = 24  # characters
LETTER = 14  # pixels that a letter needs


class TimingPart(NamedTuple):
    """A part of the TTFT: its name, seconds, colour and letter."""

    name: str
    value: float
    colour: str
    letter: str


# name, key of the timing, colour, letter
PARTS = (
    ("load", "load_s", "#2f7fd0", "L"),
    ("select", "select_s", "#9a5cc9", "S"),
    ("compute", "prefill_s", "#d98100", "C"),
)
REST = ("decode", "#8a8f98", "D")  # of the first token: what is left when the prompt has been run
COLOURS = {name: colour for name, _, colour, _ in PARTS} | {REST[0]: REST[1]}


def parts(timing: dict[str, Any]) -> list[TimingPart]:
    """Return the parts of ``timing``'s TTFT; they sum to it.

    Where the parts are not known (a history keeps the sum only) there is one part without a letter.
    """
    total = float(timing.get("ttft_s") or 0.0)
    if not any(key in timing for _, key, _, _ in PARTS):
        return [TimingPart("", total, COLOURS["load"], "")]
    found = [TimingPart(name, float(timing.get(key) or 0.0), colour, letter) for name, key, colour, letter in PARTS]
    name, colour, letter = REST
    return [*found, TimingPart(name, max(0.0, total - sum(part.value for part in found)), colour, letter)]


def ttft_html(rows: Sequence[tuple[str, dict[str, Any]]], title: str = "Time to first token") -> str:
    """Return one bar for each ``(label, timing)``."""
    longest = max((float(timing.get("ttft_s") or 0.0) for _, timing in rows), default=0.0) or 1.0
    lines = "".join(_row(label, timing, WIDTH / longest) for label, timing in rows)
    return f"<div><table><caption>{escape(title)}</caption><tbody>{lines}</tbody></table>{_legend(rows, longest)}</div>"


def _row(label: str, timing: dict[str, Any], scale: float) -> str:
    bar = "".join(_segment(part, label, scale) for part in _visible(timing, scale))
    name = f'<td title="{escape(label)}">{escape(cut(label, LABEL))}</td>' if label else ""
    total = seconds(float(timing.get("ttft_s") or 0.0))
    row = f'<td style="text-align:left"><div style="display:flex;align-items:center">{bar}&nbsp;{total}</div></td>'
    return f"<tr>{name}{row}</tr>"


def _segment(part: TimingPart, label: str, scale: float) -> str:
    width = scale * part.value
    letter = part.letter if width > LETTER else ""
    told = escape(f"{label} {part.name} {seconds(part.value)}".strip())
    style = f"background-color:{part.colour};width:{width:.1f}px;height:{HEIGHT}px"
    # dark letters on every one of the colours, whatever the theme
    return f'<span title="{told}" style="{style};color:#111111;line-height:{HEIGHT}px;text-indent:3px">{letter}</span>'


def _legend(rows: Sequence[tuple[str, dict[str, Any]]], longest: float) -> str:
    used = {part.name for _, timing in rows for part in _visible(timing, WIDTH / longest)}
    known = [TimingPart(name, 0, colour, letter) for name, _, colour, letter in PARTS] + [
        TimingPart(REST[0], 0, *REST[1:])
    ]
    shown = [f"{chip(part.letter, part.colour)} {part.name}" for part in known if part.name in used]
    return f"<p>{' '.join(shown)}</p>" if shown else ""


def _visible(timing: dict[str, Any], scale: float) -> list[TimingPart]:
    return [part for part in parts(timing) if part.value * scale > 0.3]  # noqa: PLR2004  (a third of a pixel)
