"""The token map: every token of a prompt coloured by where its KV came from, as a picture and in the prompt's text.

The picture (``mosaic.py``) has all tokens of any prompt. The text has all of them up to one or two thousand (in
JupyterLab with our extension, whose data are packed, four or five thousand); of longer prompts it leaves out the middle
of runs of one colour first, and says where it does what that was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from nbkv.show.excerpt import LABELLED, TokenRun, shown
from nbkv.show.mosaic import LINE, CellRun, picture_html
from nbkv.show.palette import PROVENANCE
from nbkv.show.units import cut, plural, share


class SourceStyle(NamedTuple):
    """How tokens of one source are drawn: letter and meaning, kind of line below, strength of ground, element."""

    letter: str
    meaning: str
    line: str
    ground: float
    tag: str


SOURCES = {
    "PREFIX": SourceStyle("P", "reused as prefix", "2px solid", 0.28, "u"),
    "CHUNK": SourceStyle("C", "reused from a chunk", "3px double", 0.28, "i"),
    "CORRECTED": SourceStyle("A", "reused and adjusted", "2px dashed", 0.32, "em"),
    "RECOMPUTED": SourceStyle("R", "recomputed", "2px dotted", 0.34, "b"),
    "FRESH": SourceStyle("F", "fresh", "", 0.13, "span"),
}
EACH_TOKEN = 160  # up to this prompt length every token tells its number, and a map is open
MOST = 7_500  # bytes of text and marks: fifty results have to fit into a notebook of 2 MB
TAG = 7  # bytes of a run's element
GROUP = 100  # tokens that hovering tells of together
GONE = "dropped by all layers and heads"  # others may lack in some of them
DROPPED = "text-decoration:line-through;opacity:0.6"
MAP = (
    "white-space:pre-wrap;overflow-wrap:break-word;line-height:2;max-height:340px;overflow-y:auto;"
    "border:1px solid #808080;padding:4px 8px"
)


def style(source: str) -> str:
    """Return the look of a token: a translucent ground, and a line whose kind says the same as its colour."""
    look, shade = SOURCES[source], PROVENANCE[source]
    line = f";border-bottom:{look.line} {shade.colour}" if look.line else ""
    return f"background-color:{shade.translucent(look.ground)}{line}"


# Long maps have a short element for each run; where a page takes this away, lines, bold and italic remain of it.
_RULES = "".join(
    f".nbkv-map {look.tag}{{font-style:normal;font-weight:inherit;text-decoration:none;{style(name)}}}"
    for name, look in SOURCES.items()
    if name != "FRESH"
)
_STYLE = f"<style>{_RULES}.nbkv-map s{{{DROPPED}}}</style>"


def runs(result: dict[str, Any]) -> list[TokenRun]:
    """Return the prompt cut where source or chunk change, a chunk ends, or dropping begins or ends."""
    chunks = sorted(((c["start"], c["stop"], c["name"]) for c in result.get("chunks", ())), key=lambda c: c[:2])
    dropped = sorted(tuple(span) for span in result.get("dropped", ()))
    edges = sorted({edge for start, stop, *_ in (*chunks, *dropped) for edge in (start, stop)})
    chunk_starts, dropped_starts = [chunk[0] for chunk in chunks], [span[0] for span in dropped]
    found = []
    for run in result["provenance"]:
        start = run["start"]
        while start < run["stop"]:
            after = bisect_right(edges, start)
            stop = min(run["stop"], edges[after]) if after < len(edges) else run["stop"]
            chunk = _covering(chunks, chunk_starts, start)
            name, gone = (chunk[2] if chunk else ""), bool(_covering(dropped, dropped_starts, start))
            found.append(TokenRun(start, stop, run["source"], name, gone))
            start = stop
    return found


def totals(result: dict[str, Any]) -> dict[str, int]:
    """Return the number of tokens of each source that occurs, and of those ``DROPPED``."""
    counted = Counter[str]()
    for run in result["provenance"]:
        counted[run["source"]] += run["stop"] - run["start"]
    counted["DROPPED"] = sum(stop - start for start, stop in result.get("dropped", ()))
    return {name: counted[name] for name in PROVENANCE if counted[name]}


def told(result: dict[str, Any]) -> str:
    """Return in words what the picture of the prompt shows."""
    lines = f", {LINE} tokens a line" if result["tokens"]["prompt"] > LINE else ""
    what = f"The {plural(result['tokens']['prompt'], 'prompt token')} from first to last{lines}"
    return f"{what}: {counted(result)}"


def counted(result: dict[str, Any]) -> str:
    """Return in words how many tokens are of which source."""
    found = totals(result)
    counts = [f"{found[name]:,} {look.meaning}" for name, look in SOURCES.items() if name in found]
    return ", ".join([*counts, *([f"{found['DROPPED']:,} {GONE}"] if "DROPPED" in found else [])])


def legend_html(result: dict[str, Any]) -> str:
    """Return the sources that occur, with their letter, meaning and number of tokens."""
    found, prompt = totals(result), max(1, result["tokens"]["prompt"])
    entries = [
        f'<span style="white-space:nowrap;margin-right:14px"><b style="padding:0px 5px;{style(name)}">{look.letter}</b>'
        f" {look.meaning} {found[name]:,} ({share(found[name] / prompt)})</span>"
        for name, look in SOURCES.items()
        if name in found
    ]
    if "DROPPED" in found:
        entries.append(f'<span><b style="{DROPPED}">D</b> {GONE} {found["DROPPED"]:,}</span>')
    if prompt > LINE:
        entries.append(f'<span class="nbkv-dim">one cell a token, {LINE} a line</span>')
    return f"<div>{' '.join(entries)}</div>"


def strip_html(result: dict[str, Any]) -> str:
    """Return the picture of the whole prompt."""
    return picture_html(cells(result), told(result)) if result["tokens"]["prompt"] else ""


def cells(result: dict[str, Any]) -> list[CellRun]:
    """Return what the picture is drawn from."""
    return [CellRun(run.start, run.stop, run.source, run.dropped) for run in runs(result)]


def map_html(result: dict[str, Any]) -> str:
    """Return the prompt's text with its tokens marked, in a ``<details>`` that is open for short prompts."""
    pieces = [visible(piece) for piece in result.get("prompt_pieces") or ()]
    n = result["tokens"]["prompt"]
    if not n or len(pieces) != n:
        return ""
    pieces = [escape(piece, quote=False) for piece in pieces]
    marked = MarkedPrompt(result, pieces)
    ranges = shown(marked.runs, [len(piece.encode()) for piece in pieces], MOST, TAG)
    marks = marked.each_token() if n <= EACH_TOKEN else f"{_STYLE}{marked.ranges(ranges)}"
    left_out = n - sum(stop - start for start, stop in ranges)
    title = f"Token map of the prompt ({plural(n, 'token')}{f', {left_out:,} of them left out' if left_out else ''})"
    text = f'<div class="nbkv-map" style="{MAP}">{marks}</div>'
    return f"<details{' open' if n <= EACH_TOKEN else ''}><summary>{title}</summary>{text}</details>"


def visible(text: str) -> str:
    """Return ``text`` with what cannot be seen made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "·" for c in text).replace("\n", "↵\n")


class MarkedPrompt:
    """Writes the text of one result's prompt; ``pieces`` are its tokens, escaped."""

    def __init__(self, result: dict[str, Any], pieces: Sequence[str]) -> None:
        self.runs, self.pieces = runs(result), pieces
        self._begins = {chunk["start"] for chunk in result.get("chunks", ())}
        self._starts = [run.start for run in self.runs]
        self._deviation = result.get("deviation")

    def each_token(self) -> str:
        """Return every token with its number; the look stands once for neighbours that share it."""
        found = ""
        for run in self.runs:
            marks = "".join(
                f'<span title="{self._title([run.within(at, at + 1)])}">{self.pieces[at]}</span>'
                for at in range(run.start, run.stop)
            )
            look = f"{style(run.source)};{DROPPED}" if run.dropped else style(run.source)
            found += f'<span style="{look}">{self._label(run, first=False)}{marks}</span>'
        return found

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> str:
        """Return the tokens in ``ranges``, and at each gap what was left out."""
        found, before = "", 0
        for start, stop in ranges:
            found += self._gap(before, start)
            for at in range(start, stop, GROUP):
                group = self._clipped(at, min(at + GROUP, stop))
                marks = "".join(self._run(run, first=run.start == start) for run in group)
                found += f'<span title="{self._title(group)}">{marks}</span>'
            before = stop
        return found + self._gap(before, len(self.pieces))

    def _run(self, run: TokenRun, *, first: bool) -> str:
        text = "".join(self.pieces[run.start : run.stop])
        body = f"<s>{text}</s>" if run.dropped else text
        tag = SOURCES[run.source].tag
        shown = body if run.source == "FRESH" else f"<{tag}>{body}</{tag}>"
        return self._label(run, first=first) + shown

    def _label(self, run: TokenRun, *, first: bool) -> str:
        """Return the name of a chunk where it begins or goes on after a gap, and the letter of other long runs.

        Within a chunk there are no letters: they would break words.
        """
        begins = run.start in self._begins or first
        name = cut(run.chunk, 24) if begins else ""
        long = run.stop - run.start >= LABELLED and run.start in self._starts and (name or not run.chunk)
        letter = SOURCES[run.source].letter if long or (first and not name) else ""
        words = f"{letter} {name}".strip()
        return f"<small>{escape(words, quote=False)} </small>" if words else ""

    def _gap(self, start: int, stop: int) -> str:
        if start >= stop:
            return ""
        counts = Counter[str]()
        for run in self._clipped(start, stop):
            counts[SOURCES[run.source].meaning] += run.stop - run.start
        told = [f"{number:,} {meaning}" for meaning, number in counts.most_common()]
        what = f"all {next(iter(counts))}" if len(counts) == 1 else ", ".join(told)
        names = self._beginning(start, stop)
        what += f"; in it begin {escape(', '.join(names), quote=False)}" if names else ""
        return f'<small class="nbkv-gap">[… {plural(stop - start, "token")} left out here: {what} …] </small>'

    def _beginning(self, start: int, stop: int, most: int = 6) -> list[str]:
        """Return the names of the chunks that begin in ``[start, stop)``."""
        starts = {run.start: run.chunk for run in self._clipped(start, stop) if run.chunk}
        names = [cut(starts[at], 24) for at in sorted(self._begins & starts.keys())]
        return [*names[:most], f"{plural(len(names) - most, 'more chunk')}"] if len(names) > most else names

    def _clipped(self, start: int, stop: int) -> list[TokenRun]:
        found, at = [], bisect_right(self._starts, start) - 1
        while at < len(self.runs) and self.runs[at].start < stop:
            found.append(self.runs[at].within(start, stop))
            at += 1
        return found

    def _title(self, group: Sequence[TokenRun]) -> str:
        """Return what hovering tells of neighbouring runs, as an attribute."""
        start, stop = group[0].start, group[-1].stop
        counts = Counter[str]()
        for run in group:
            counts[run.source] += run.stop - run.start
        sources = " + ".join(f"{number} {source}" for source, number in counts.most_common())
        names = dict.fromkeys(cut(run.chunk, 48) for run in group if run.chunk)
        dropped = sum(run.stop - run.start for run in group if run.dropped)
        one = stop - start == 1
        parts = [
            f"token {start}" if one else f"tokens {start}–{stop - 1}",
            sources if len(counts) > 1 else group[0].source,
            *list(names)[:3],
            "" if not dropped else "dropped" if dropped == stop - start else f"{dropped} dropped",
        ]
        known = [value for value in (self._deviation or ())[start:stop] if value is not None]
        if known:
            parts.append(f"deviation {'' if one else 'at most '}{max(known):.2g}")
        return escape(", ".join(part for part in parts if part))


def _covering(spans: list[Any], starts: list[int], index: int) -> Any:  # noqa: ANN401  (a span, named or not)
    """Return the last of the sorted ``spans`` that begins at or before ``index``, if it also covers it."""
    at = bisect_right(starts, index) - 1
    return spans[at] if at >= 0 and index < spans[at][1] else None
