"""The token map: a prompt's tokens coloured by where their KV came from, bounded in size however long the prompt is."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from nbkv.show.page import bounded
from nbkv.show.units import cut, plural, share


class SourceStyle(NamedTuple):
    """How tokens of one source are drawn: letter and meaning in the legend, line below, colour of bar, of ground."""

    letter: str
    meaning: str
    line: str
    colour: str
    ground: str

    @property
    def style(self) -> str:
        """Return the look of a token: a translucent ground, and a line whose kind says the same as its colour."""
        line = f";border-bottom:{self.line} {self.colour}" if self.line else ""
        return f"background-color:{self.ground}{line}"


SOURCES = {
    "PREFIX": SourceStyle("P", "reused as prefix", "2px solid", "#2f7fd0", "rgba(38,120,210,0.26)"),
    "CHUNK": SourceStyle("C", "reused from a chunk", "3px double", "#1f9d64", "rgba(20,150,90,0.26)"),
    "CORRECTED": SourceStyle("A", "reused and adjusted", "2px dashed", "#9a5cc9", "rgba(150,80,200,0.27)"),
    "RECOMPUTED": SourceStyle("R", "recomputed", "2px dotted", "#d98100", "rgba(230,130,0,0.32)"),
    "FRESH": SourceStyle("F", "fresh", "", "#8a8f98", "rgba(128,128,128,0.13)"),
}
EACH_TOKEN = 160  # up to this prompt length every token has its own mark
MAX_SEGMENTS = 80  # of longer ones: fifty results have to fit into a notebook of 2 MB
MAX_STRIP = 50
MAX_TEXT = 5_000  # bytes of prompt text shown
OPEN_BELOW = 160  # tokens
LABELLED = 12  # tokens in a run
STRIP = {"FRESH": 4, "RECOMPUTED": 7}  # pixels of 10
DROPPED = "text-decoration:line-through;opacity:0.6"
MAP = (
    "white-space:pre-wrap;overflow-wrap:anywhere;line-height:2;max-height:340px;overflow-y:auto;"
    "border:1px solid #808080;padding:4px 8px"
)


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens ``[start, stop)`` drawn as one mark; ``mixed`` counts their sources if they differ.

    Long runs carry a ``label`` (letter and chunk), so that colour is not the only sign. ``deviation`` is the largest
    one of its tokens, where it is known.
    """

    start: int
    stop: int
    source: str
    chunk: str = ""
    dropped: bool = False
    mixed: str = ""
    label: bool = False
    deviation: float | None = None

    @property
    def title(self) -> str:
        """Return what hovering over the mark tells."""
        where = f"token {self.start}" if self.stop - self.start == 1 else f"tokens {self.start}–{self.stop - 1}"
        parts = [where, self.mixed or self.source, cut(self.chunk, 48), "dropped" if self.dropped else ""]
        if self.deviation is not None:
            most = "" if self.stop - self.start == 1 else "at most "
            parts.append(f"deviation {most}{self.deviation:.2g}")
        return ", ".join(part for part in parts if part)


def legend_html(result: dict[str, Any]) -> str:
    """Return the sources that occur, with their letter, meaning and number of tokens."""
    totals = Counter[str]()
    for run in result["provenance"]:
        totals[run["source"]] += run["stop"] - run["start"]
    prompt = max(1, sum(totals.values()))
    entries = [
        f'<span style="white-space:nowrap;margin-right:14px"><b style="padding:0px 5px;{look.style}">{look.letter}</b>'
        f" {look.meaning} {totals[name]:,} ({share(totals[name] / prompt)})</span>"
        for name, look in SOURCES.items()
        if totals[name]
    ]
    n_dropped = sum(stop - start for start, stop in result.get("dropped", ()))
    if n_dropped:
        entries.append(f'<span><b style="{DROPPED}">D</b> dropped {n_dropped:,}</span>')
    return f"<div>{' '.join(entries)}</div>"


def strip_html(result: dict[str, Any]) -> str:
    """Return the whole prompt as one thin bar; fresh and recomputed tokens are also lower than reused ones."""
    n = result["tokens"]["prompt"]
    marks = "".join(
        f'<span title="{escape(segment.title)}" style="background-color:{SOURCES[segment.source].colour};'
        f'width:{100 * (segment.stop - segment.start) / n:.2f}%;height:{STRIP.get(segment.source, 10)}px"></span>'
        for segment in segments(result | {"deviation": None}, each_token=False, limit=MAX_STRIP)
    )
    label = f"Where the {plural(n, 'prompt token')} came from, from first to last"
    style = "display:flex;align-items:flex-end;height:10px;margin:4px 0px"
    return f'<div role="img" aria-label="{label}" style="{style}">{marks}</div>'


def map_html(result: dict[str, Any]) -> str:
    """Return the prompt's text with its tokens marked, in a ``<details>`` that is open for short prompts."""
    pieces = result.get("prompt_pieces") or []
    n = result["tokens"]["prompt"]
    if not n or len(pieces) != n:
        return ""
    found = segments(result, each_token=n <= EACH_TOKEN, limit=MAX_SEGMENTS)
    n_bytes = len(escape("".join(pieces), quote=False).encode())
    keep = min(1.0, MAX_TEXT / max(1, n_bytes))
    # the look stands once for neighbours that share it: most of a map's bytes would be style otherwise
    marks = "".join(
        f'<span style="{style}">'
        + "".join(_mark(segment, "".join(pieces[segment.start : segment.stop]), keep) for segment in alike)
        + "</span>"
        for style, alike in groupby(found, key=_style)
    )
    is_open = " open" if n <= OPEN_BELOW else ""
    title = f"Token map of the prompt ({plural(n, 'token')})"
    text = f'<div class="nbkv-map" style="{MAP}">{marks}</div>'
    return f"<details{is_open}><summary>{title}</summary>{text}</details>"


def _style(segment: Segment) -> str:
    look = SOURCES[segment.source].style
    return f"{look};{DROPPED}" if segment.dropped else look


def _mark(segment: Segment, text: str, keep: float) -> str:
    mixed = ' class="nbkv-m"' if segment.mixed else ""
    visible = "".join(c if c.isprintable() or c in "\n\t" else "·" for c in text).replace("\n", "↵\n")
    limit = int(len(visible.encode()) * keep) if keep < 1 else MAX_TEXT
    letter = SOURCES[segment.source].letter
    tag = f"<b>{escape(f'{letter} {cut(segment.chunk, 24)}'.strip())} </b>" if segment.label else ""
    return f'<span{mixed} title="{escape(segment.title)}">{tag}{bounded(visible, max(24, limit))}</span>'


def segments(result: dict[str, Any], *, each_token: bool, limit: int) -> list[Segment]:
    """Return the prompt cut where source, chunk or dropping changes; at most ``limit`` pieces unless ``each_token``."""
    runs = list(_runs(result))
    if each_token:
        found = [
            Segment(index, index + 1, run.source, run.chunk, run.dropped, label=run.label and index == run.start)
            for run in runs
            for index in range(run.start, run.stop)
        ]
    else:
        found = runs if len(runs) <= limit else list(_windows(runs, limit))
    deviation = result.get("deviation")
    return [replace(segment, deviation=_most(deviation, segment)) for segment in found] if deviation else found


def _most(deviation: list[float | None], segment: Segment) -> float | None:
    return max((value for value in deviation[segment.start : segment.stop] if value is not None), default=None)


def _runs(result: dict[str, Any]) -> Iterator[Segment]:
    """Cut the provenance runs where a chunk or a dropped span begins or ends."""
    chunks = sorted(((c["start"], c["stop"], c["name"]) for c in result.get("chunks", ())), key=lambda c: c[:2])
    dropped = sorted(tuple(span) for span in result.get("dropped", ()))
    edges = sorted({edge for start, stop, *_ in (*chunks, *dropped) for edge in (start, stop)})
    for run in result["provenance"]:
        start = run["start"]
        while start < run["stop"]:
            after = bisect_right(edges, start)
            stop = min(run["stop"], edges[after]) if after < len(edges) else run["stop"]
            chunk = _covering(chunks, start)
            name, gone = (chunk[2] if chunk else ""), bool(_covering(dropped, start))
            yield Segment(start, stop, run["source"], name, gone, label=stop - start >= LABELLED)
            start = stop


def _covering(spans: list[Any], index: int) -> Any:  # noqa: ANN401  (a span with or without a name)
    """Return the last of the sorted ``spans`` that begins at or before ``index``, if it also covers it."""
    at = bisect_right(spans, index, key=lambda span: span[0]) - 1
    return spans[at] if at >= 0 and index < spans[at][1] else None


def _windows(runs: list[Segment], limit: int) -> Iterator[Segment]:
    """Merge ``runs`` into at most ``limit`` windows of equal length; each has its commonest source."""
    n = runs[-1].stop
    width = -(-n // limit)
    at = 0
    for start in range(0, n, width):
        stop = min(n, start + width)
        found, chunks, gone = Counter[str](), Counter[str](), 0
        while at < len(runs) and runs[at].start < stop:
            run = runs[at]
            overlap = min(run.stop, stop) - max(run.start, start)
            found[run.source] += overlap
            chunks[run.chunk] += overlap
            gone += overlap * run.dropped
            if run.stop > stop:
                break
            at += 1
        counts = " + ".join(f"{number} {source}" for source, number in found.most_common())
        source, chunk = found.most_common(1)[0][0], chunks.most_common(1)[0][0]
        yield Segment(start, stop, source, chunk, 2 * gone > stop - start, counts if len(found) > 1 else "")
