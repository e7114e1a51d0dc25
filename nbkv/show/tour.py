"""A tour as text and as HTML: the recommendation, what was measured, and how far so few prompts reach."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import emphasised, notes_html, table_html, table_text, view
from nbkv.show.units import UNKNOWN, nats, plural, seconds, share, size, times, yes

COLUMNS = ("strategy", "exact", "TTFT", "full", "speed-up", "computed", "KL", "worst KL", "above", "at most")
_BEST = " (recommended)"


def tour_text(tour: dict[str, Any]) -> str:
    """Return the recommendation, the table, and what the sample does not show."""
    notes = [f"note: {note}" for note in tour["notes"]]
    table = table_text(COLUMNS, _rows(tour))
    return "\n".join([_headline(tour), table, _about(tour), tour["sample"], *notes])


def tour_html(tour: dict[str, Any]) -> str:
    """Return the same as a view."""
    body = [
        f"<p><b>{escape(_headline(tour))}</b></p>",
        table_html(COLUMNS, [emphasised(row) if row[0].endswith(_BEST) else row for row in _rows(tour)]),
        f'<p class="nbkv-dim">{escape(_about(tour))}</p><p>{escape(tour["sample"])}</p>',
        notes_html(tour["notes"]),
    ]
    return view("".join(body), "tour")


def tour_reason(best: dict[str, Any] | None, encode_s: float, encoded_bytes: float, n: int) -> str:
    """Return in one line what the recommended strategy saves and costs; ``best`` is its row, None for full."""
    if not n:
        return "nothing measured yet"
    if best is None:
        return "full: nothing that was tried comes to its first token a tenth sooner within the bound"
    saves = (
        f"first token {times(best['speedup'])} sooner ({seconds(best['ttft_s'])} instead of {seconds(best['full_s'])})"
    )
    price = (
        "the same answers" if best["exact"] else f"KL {nats(best['kl'])} on average, {nats(best['kl_max'])} at worst"
    )
    once = f"{seconds(encode_s)} and {size(encoded_bytes)} to encode a prompt's documents once"
    return f"{best['strategy']}: {saves}; costs {once}; {price}"


def _headline(tour: dict[str, Any]) -> str:
    return f"{tour['stopped']}, so far: {tour['why']}" if tour["stopped"] else tour["why"]


def _about(tour: dict[str, Any]) -> str:
    return (
        f"{tour['model']}, {plural(tour['n'], 'prompt')} of {plural(tour['documents'], 'document')}, up to "
        f"{plural(tour['tokens'], 'token')}; medians; above: prompts above {tour['max_kl']:g} nats; "
        "at most: the share of such prompts that 90 % confidence leaves open"
    )


def _rows(tour: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["strategy"] + (_BEST if row["strategy"] == tour["recommended"] else ""),
            yes(row["exact"]),
            seconds(row["ttft_s"]),
            seconds(row["full_s"]),
            times(row["speedup"]),
            share(row["compute_share"]),
            nats(row["kl"]),
            nats(row["kl_max"]),
            UNKNOWN if row["exact"] else f"{row['above']} of {tour['n']}",
            share(row["at_most"]),
        )
        for row in tour["rows"]
    ]
