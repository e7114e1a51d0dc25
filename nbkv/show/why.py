"""Why tokens were not reused: one row a cause and span, what its cure would save, and both texts where text differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any

from nbkv.show.page import table_html, table_text, view
from nbkv.show.units import count, cut, plural, seconds

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
        lines.append(table_text(COLUMNS[:4], [_cells(miss)[:4] for miss in _rows(why)]))
        lines += [f"{CAUSES[miss['cause']]}: {_told(miss)}" for miss in _worth_telling(why)]
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
    return {"headline": headline(why), "rows": [list(_cells(miss)) for miss in _rows(why)[:LAB_ROWS]], "texts": texts}


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
    table = table_html(COLUMNS, [_cells(miss) for miss in _rows(why)], left=(0, 4, 5))
    more = len(why["misses"]) - ROWS
    rest = f'<p class="nbkv-dim">{plural(more, "more span")}</p>' if more > 0 else ""
    mono = "font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px;overflow-wrap:anywhere"
    texts = "".join(
        f'<div style="{mono};margin:3px 0px">'
        f'<div style="border-left:3px solid #d98100;padding-left:6px">was: {escape(repr(was))}</div>'
        f'<div style="border-left:3px solid #2f7fd0;padding-left:6px">now: {escape(repr(now))}</div></div>'
        for was, now in _texts(why)
    )
    return f"{table}{rest}{texts}"


def _rows(why: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the misses shown, the dearest first."""
    dear = sorted(why["misses"], key=lambda miss: (-(miss["seconds"] or 0), -miss["saves"], miss["start"]))
    return dear[:ROWS]


def _cells(miss: dict[str, Any]) -> tuple[str, ...]:
    n = miss["stop"] - miss["start"]
    if miss["seconds"] is not None and miss["seconds"] < 0:
        saves = f"nothing ({seconds(-miss['seconds'])} more)"
    elif miss["saves"]:
        saves = count(miss["saves"]) if miss["seconds"] is None else seconds(miss["seconds"])
    else:
        saves = "–"
    where = f"{miss['start']}–{miss['stop'] - 1}" if n > 1 else str(miss["start"])
    told = cut(miss["detail"], 2 * TEXT)
    return CAUSES[miss["cause"]], count(n), where, saves, told, miss["fix"]


def _told(miss: dict[str, Any]) -> str:
    return f"{miss['detail']}{'; ' + miss['fix'] if miss['fix'] else ''}"


def _worth_telling(why: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the misses that are more than new text and the last token, once for each thing that happened."""
    known = {(miss["cause"], miss["detail"]): miss for miss in _rows(why) if miss["cause"] not in {"new", "last"}}
    return list(known.values())


def _texts(why: dict[str, Any]) -> Sequence[tuple[str, str]]:
    pairs = [(miss["was"], miss["now"]) for miss in _rows(why) if miss["was"] or miss["now"]]
    return [(cut(was, 2 * TEXT), cut(now, 2 * TEXT)) for was, now in dict.fromkeys(pairs)]


def _grouped(why: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    ordered = sorted(why["misses"], key=lambda miss: str(miss["cause"]))
    for cause, group in groupby(ordered, key=lambda miss: str(miss["cause"])):
        yield cause, list(group)
