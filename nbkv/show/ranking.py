"""A ranking as text and as HTML: documents by score, and in the best ones the tokens that the query looked at."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import Drawn, notes_html, table_html, table_text, view
from nbkv.show.palette import EDGE, SERIES, Shade
from nbkv.show.units import count, cut, plural, seconds, share

KEY = "score: what a document gets of the query's attention, more than of that of a query without content"
WIDTH, HEIGHT = 120, 12  # pixels of the longest bar
_SHOWN, _TEXT = 20, 70  # documents, and characters of one
_MARK = Shade("#e69f00", "#111111")  # behind tokens, in steps of strength


def ranking_text(ranking: dict[str, Any]) -> str:
    """Return the query, what the ranking took, and the documents in their order."""
    rows = [
        (row["rank"], row["document"], f"{row['score']:+.3g}", row["tokens"], cut(_line(row["text"]), _TEXT))
        for row in ranking["rows"][:_SHOWN]
    ]
    lines = [_headline(ranking), _figures(ranking), *_distance(ranking)]
    lines.append(table_text(("rank", "document", "score", "tokens", "text"), rows, left=(1, 4)))
    return "\n".join([*lines, *_more(ranking)])


def ranking_html(ranking: dict[str, Any]) -> str:
    """Return the same as a view; what the query attended to is marked in the three best documents."""
    widest = max((abs(row["score"]) for row in ranking["rows"]), default=0.0) or 1.0
    rows = (_row(row, widest) for row in ranking["rows"][:_SHOWN])
    by_place = {row["place"]: row for row in ranking["rows"]}
    shown = ranking["marked"]
    most = max((score for pieces in shown.values() for _, score in pieces if score is not None), default=0.0) or 1.0
    marked = "".join(_marked(by_place[at], pieces, most) for at, pieces in shown.items())
    body = [
        f"<p><b>{escape(_headline(ranking))}</b></p>",
        *(f'<p class="nbkv-dim">{escape(line)}</p>' for line in (_figures(ranking), *_distance(ranking))),
        table_html(_COLUMNS, rows, left=_WORDS),
        f'<p class="nbkv-dim">{escape(KEY)}</p>',
        *(f'<p class="nbkv-dim">{line}</p>' for line in _more(ranking)),
        f"<details><summary>What the query attended to</summary>{marked}</details>",
        notes_html(ranking["notes"]),
    ]
    return view("".join(body), "ranking")


_COLUMNS = ("rank", "document", "score", "tokens", "text")
_WORDS = (1, 2, 4)


def _row(row: dict[str, Any], widest: float) -> tuple[object, ...]:
    width, colour = WIDTH * abs(row["score"]) / widest, SERIES[0] if row["score"] >= 0 else SERIES[1]
    style = f"background-color:{colour};width:{width:.1f}px;height:{HEIGHT}px;box-sizing:border-box"
    bar = f'<span style="{style};border:1px solid {EDGE};display:inline-block"></span>'
    inline = "display:inline-flex;align-items:center;gap:6px"
    scored = Drawn(f'<span style="{inline}">{bar}<span>{row["score"]:+.3g}</span></span>')
    return (row["rank"], cut(row["document"], 48), scored, count(row["tokens"]), cut(_line(row["text"]), _TEXT))


def _marked(row: dict[str, Any], pieces: list[tuple[str, float | None]], most: float) -> str:
    """Return a document's tokens, marked by their share of the ``most`` any scored; dropped ones are struck through."""
    shown = []
    for piece, score in pieces:
        if score is None:
            shown.append(f'<s title="dropped: an outlier">{escape(piece)}</s>')
            continue
        strength = round(0.75 * max(0.0, score) / most, 2)
        style = f' style="background-color:{_MARK.translucent(strength)}"' if strength > 0 else ""
        shown.append(f'<span title="{score:+.3g}"{style}>{escape(piece)}</span>')
    name = f"<small>{row['rank']} · {escape(row['document'])}</small>"
    return f'<div class="nbkv-map" style="white-space:pre-wrap;margin:6px 0">{name}{"".join(shown)}</div>'


def _headline(ranking: dict[str, Any]) -> str:
    best = ranking["rows"][0]["document"]
    return (
        f"{cut(_line(ranking['query']), 100)} → {cut(best, 48)} is first of {plural(len(ranking['rows']), 'document')}"
    )


def _figures(ranking: dict[str, Any]) -> str:
    tokens, compute = ranking["tokens"], ranking["compute"]
    first, last = ranking["layers"]
    reused = f"{count(tokens['reused'])} of {plural(tokens['prompt'], 'token')} reused"
    ran = f"computed {share(compute['share'])} of prompt x layers ({share(compute['select'])} to calibrate and select)"
    said = f"{ranking['model']}, {ranking['strategy']}, layers {first} to {last - 1}"
    return f"{said}: {reused}, {ran}, {seconds(ranking['seconds'])}"


def _distance(ranking: dict[str, Any]) -> list[str]:
    far = ranking["fidelity"]
    if far is None:
        return []
    best = "the same best document" if far["top1"] else "ANOTHER best document"
    return [f"against full: {best}, Kendall's tau {far['tau']:.2f}, scores off by {far['gap']:.2g} of their spread"]


def _more(ranking: dict[str, Any]) -> list[str]:
    more = len(ranking["rows"]) - _SHOWN
    return [f"… {plural(more, 'more document')}: to_frame() has all"] if more > 0 else []


def _line(text: str) -> str:
    return " ".join(text.split())
