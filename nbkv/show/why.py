"""Why tokens were not reused: one row a reason, what its cure would save, and both texts where text differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

from nbkv.show.page import table_html, table_text, view
from nbkv.show.units import UNKNOWN, count, cut, plural, seconds

ROWS, LAB_ROWS = 12, 6  # of a table, and of one of the extension, which is kept in the notebook a second time
TEXT = 160  # characters of a text that differs
COLUMNS = ("cause", "tokens", "where", "would save", "what happened", "what helps")
CAUSES = {
    "new": "never seen",
    "edited": "text differs",
    "merged": "tokens merged at a border",
    "template": "chat template rewrote history",
    "thinking": "thinking stripped",
    "moved": "at another place",
    "adapter": "other adapter or weights",
    "dtype": "other dtype",
    "tenant": "other tenant",
    "elsewhere": "another session's store",
    "not kept": "computed, not kept",
    "evicted": "evicted",
    "cleared": "store cleared",
    "checkpoint": "no state checkpoint there",
    "break-even": "below break-even",
    "strategy": "strategy does not reuse",
    "chosen": "recomputed on purpose",
    "last": "has to run",
}


def why_text(why: dict[str, Any]) -> str:
    """Return a headline and the misses in columns, with the texts that differ below them."""
    lines = [headline(why)]
    if why["misses"]:
        lines.append(table_text(COLUMNS[:4], [_cells(one)[:4] for one in reasons(why)[:ROWS]]))
        lines += [f"{CAUSES[one.cause]}: {_told(one)}" for one in _worth_telling(why)]
        lines += [f"  was: {was!r}\n  now: {now!r}" for was, now in _texts(why)]
    return "\n".join(lines)


def why_html(why: dict[str, Any]) -> str:
    """Return the same as a view of its own."""
    return view(f"<p>{escape(headline(why))}</p>{_table(why)}", "why")


def why_section(why: dict[str, Any] | None) -> str:
    """Return the misses folded away below a result; nothing where there is nothing to tell."""
    if not why or not _worth_telling(why):
        return ""
    return f"<details><summary>{escape(headline(why))}</summary>{_table(why)}</details>"


def why_data(why: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return headline, rows and texts for the extension, all in words; None where there is nothing to tell."""
    if not why or not _worth_telling(why):
        return None
    texts = [[cut(was, TEXT), cut(now, TEXT)] for was, now in _texts(why)[:LAB_ROWS]]
    return {"headline": headline(why), "rows": [list(_cells(one)) for one in reasons(why)[:LAB_ROWS]], "texts": texts}


def headline(why: dict[str, Any]) -> str:
    """Return in one line how many tokens ran, for which causes, and what curing them would save."""
    ran = sum(miss["stop"] - miss["start"] for miss in why["misses"])
    if not ran:
        return f"All of {plural(why['prompt'], 'prompt token')} that can be were reused"
    totals = [(CAUSES[cause], sum(miss["stop"] - miss["start"] for miss in group)) for cause, group in _grouped(why)]
    named = ", ".join(f"{count(n)} {cause}" for cause, n in sorted(totals, key=lambda total: -total[1]))
    saved = why["seconds"]
    worth = f"; cures would save about {seconds(saved)}" if saved else ""
    return f"Why {plural(ran, 'token')} of {count(why['prompt'])} ran: {named}{worth}"


def _table(why: dict[str, Any]) -> str:
    found = reasons(why)
    table = table_html(COLUMNS, map(_cells, found[:ROWS]), left=(0, 4, 5))
    more = len(found) - ROWS
    rest = f'<p class="nbkv-dim">{plural(more, "more reason")}</p>' if more > 0 else ""
    mono = "font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px;overflow-wrap:anywhere"
    texts = "".join(
        f'<div style="{mono};margin:3px 0px">'
        f'<div style="border-left:3px solid #d98100;padding-left:6px">was: {escape(repr(was))}</div>'
        f'<div style="border-left:3px solid #2f7fd0;padding-left:6px">now: {escape(repr(now))}</div></div>'
        for was, now in _texts(why)
    )
    return f"{table}{rest}{texts}"


class MissedTokens(NamedTuple):
    """What ran for one reason: in which ``spans``, and what curing it would save, in tokens and, if known, seconds."""

    cause: str
    detail: str
    fix: str
    was: str
    now: str
    spans: tuple[tuple[int, int], ...]
    saves: int
    seconds: float | None

    @property
    def tokens(self) -> int:
        """Return how many tokens ran."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def where(self) -> str:
        """Return the places of its first and last token, and in how many spans they lie."""
        first, last = self.spans[0][0], self.spans[-1][1] - 1
        places = f" ({len(self.spans):,} places)" if len(self.spans) > 1 else ""
        return f"{first:,}–{last:,}{places}" if last > first else f"{first:,}"


def reasons(why: dict[str, Any]) -> list[MissedTokens]:
    """Return what ran, all spans of one reason together, the dearest first."""
    together: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for miss in sorted(why["misses"], key=lambda miss: miss["start"]):
        key = tuple(str(miss[name]) for name in ("cause", "detail", "fix", "was", "now"))
        together.setdefault(key, []).append(miss)
    found = []
    for (cause, detail, fix, was, now), misses in together.items():
        took = [miss["seconds"] for miss in misses if miss["seconds"] is not None]
        spans = tuple((miss["start"], miss["stop"]) for miss in misses)
        saves = sum(miss["saves"] for miss in misses)
        found.append(MissedTokens(cause, detail, fix, was, now, spans, saves, sum(took) if took else None))
    return sorted(found, key=lambda one: (-(one.seconds or 0), -one.saves, -one.tokens, one.spans))


def _cells(one: MissedTokens) -> tuple[str, ...]:
    if one.seconds is not None and one.seconds < 0:
        saves = f"nothing ({seconds(-one.seconds)} more)"
    elif one.saves:
        saves = plural(one.saves, "token") if one.seconds is None else seconds(one.seconds)
    else:
        saves = UNKNOWN
    return CAUSES[one.cause], count(one.tokens), one.where, saves, cut(one.detail, 2 * TEXT), one.fix


def _told(one: MissedTokens) -> str:
    return f"{one.detail}{'; ' + one.fix if one.fix else ''}"


def _worth_telling(why: dict[str, Any]) -> list[MissedTokens]:
    """Return what is more than new text and the last token."""
    return [one for one in reasons(why)[:ROWS] if one.cause not in {"new", "last"}]


def _texts(why: dict[str, Any]) -> Sequence[tuple[str, str]]:
    pairs = [(one.was, one.now) for one in reasons(why)[:ROWS] if one.was or one.now]
    return [(cut(was, 2 * TEXT), cut(now, 2 * TEXT)) for was, now in dict.fromkeys(pairs)]


def _grouped(why: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    ordered = sorted(why["misses"], key=lambda miss: str(miss["cause"]))
    for cause, group in groupby(ordered, key=lambda miss: str(miss["cause"])):
        yield cause, list(group)
