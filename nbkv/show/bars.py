"""TTFT split into its parts: a table with one stacked bar a row, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from nbkv.show.palette import EDGE, TIME
from nbkv.show.units import cut, seconds

WIDTH, HEIGHT = 200, 16  # pixels of the longest bar
LABEL = 24  # characters
WORD = 7.5  # pixels that a letter of a part's name needs


class TimingPart(NamedTuple):
    """A part of the TTFT: its name, seconds, and colour."""

    name: str
    value: float
    colour: str


KEYS = {"load": "load_s", "select": "select_s", "compute": "prefill_s"}
REST = "decode"  # of the first token: what is left when the prompt has been run
COLOURS = {name: shade.colour for name, shade in TIME.items()}
BORDER = f"border:1px solid {EDGE}"  # bright colours are hard to see on white


def parts(timing: dict[str, Any]) -> list[TimingPart]:
    """Return the parts of ``timing``'s TTFT; they sum to it.

    Where the parts are not known (a history keeps the sum only) there is one part without a name.
    """
    total = float(timing.get("ttft_s") or 0.0)
    if not any(key in timing for key in KEYS.values()):
        return [TimingPart("", total, EDGE)]
    found = [TimingPart(name, float(timing.get(key) or 0.0), COLOURS[name]) for name, key in KEYS.items()]
    return [*found, TimingPart(REST, max(0.0, total - sum(part.value for part in found)), COLOURS[REST])]


def ttft_html(rows: Sequence[tuple[str, dict[str, Any]]], title: str = "Time to first token") -> str:
    """Return one bar for each ``(label, timing)``."""
    longest = max((float(timing.get("ttft_s") or 0.0) for _, timing in rows), default=0.0) or 1.0
    lines = "".join(_row(label, timing, WIDTH / longest) for label, timing in rows)
    table = f'<table class="nbkv-bars"><caption>{escape(title)}</caption><tbody>{lines}</tbody></table>'
    return f"<div>{table}{_legend(rows, longest)}</div>"


def _row(label: str, timing: dict[str, Any], scale: float) -> str:
    bar = "".join(_segment(part, label, scale) for part in _visible(timing, scale))
    name = f'<td title="{escape(label)}">{escape(cut(label, LABEL))}</td>' if label else ""
    total = seconds(float(timing.get("ttft_s") or 0.0))
    row = f'<td style="text-align:left"><div style="display:flex;align-items:center">{bar}&nbsp;{total}</div></td>'
    return f"<tr>{name}{row}</tr>"


def _segment(part: TimingPart, label: str, scale: float) -> str:
    width = scale * part.value
    word = f"<i>{part.name}</i>" if width > WORD * len(part.name) else ""
    told = escape(f"{label} {part.name} {seconds(part.value)}".strip())
    style = f"background-color:{part.colour};width:{width:.1f}px;height:{HEIGHT}px;box-sizing:border-box;{BORDER}"
    # dark letters on every one of the colours, whatever the theme
    letters = f"color:#111111;font-size:11px;line-height:{HEIGHT - 2}px;text-indent:3px;overflow:hidden"
    # the bare number is for the style sheet: where there is little room it makes all bars shorter
    return f'<span title="{told}" style="{style};--w:{width:.0f};{letters}">{word}</span>'


def _legend(rows: Sequence[tuple[str, dict[str, Any]]], longest: float) -> str:
    used = {part.name for _, timing in rows for part in _visible(timing, WIDTH / longest)}
    shown = [f'<span style="white-space:nowrap">{_chip(name)} {name}</span>' for name in COLOURS if name in used]
    return f"<p>{' '.join(shown)}</p>" if shown else ""


def _chip(name: str) -> str:
    return f'<span style="background-color:{COLOURS[name]};{BORDER};margin-left:8px">&nbsp;&nbsp;&nbsp;</span>'


def _visible(timing: dict[str, Any], scale: float) -> list[TimingPart]:
    return [part for part in parts(timing) if part.value * scale > 0.3]  # noqa: PLR2004  (a third of a pixel)
